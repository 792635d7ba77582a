"""What can be known of a draft before hours are spent on it: that it can be made, and how large it will be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from tandem.distil.base import Base
from tandem.distil.recipe import Recipe
from tandem.distil.student import Shape, StudentError, shape_of
from tandem.inference.empty import empty_model, shared_names
from tandem.inference.feeding import make_fed
from tandem.inference.grafts import FEATURES, read_graft
from tandem.models import ModelError, UnsupportedModelError, resolve
from tandem.models.quantise import dequantise
from tandem.models.reference import GRAFT


@dataclass(frozen=True, slots=True)
class Prepared:
    """shape: of the draft. start: weights that it begins with instead of the target's, float32, by transformers' names;
    None for the target's. parameters: that are its own. vocabulary_size: the target's."""

    shape: Shape
    start: Mapping[str, Tensor] | None
    parameters: int
    vocabulary_size: int


def prepare(recipe: Recipe, base: Base) -> Prepared:
    """Loads no weights of the target. Raises UnsupportedModelError, StudentError or ModelError."""
    if (base.folder.path / GRAFT).is_file():
        raise UnsupportedModelError(f"{base.name} is a draft itself; name the model that it is for")
    target = _empty(base)
    shape = shape_of(target, recipe.student.layers, recipe.student.initial)
    model = empty_model(shape.config, torch.float32)
    if recipe.student.kind == FEATURES:
        make_fed(model)
    own = own_shapes(model)
    start = None
    if recipe.student.start_from is not None:
        start = start_weights(recipe.student.start_from)
        check_shapes(own, start, recipe.student.start_from)
    parameters = sum(shape.numel() for shape in own.values())
    return Prepared(shape, start, parameters, target.config.vocab_size)


def own_shapes(model: PreTrainedModel) -> dict[str, torch.Size]:
    """Of what a draft does not share with its target."""
    shared = shared_names(model).all
    return {name: weight.shape for name, weight in model.state_dict().items() if name not in shared}


def start_weights(name: str) -> dict[str, Tensor]:
    """The own weights of a draft, in float32. Raises ModelError."""
    folder = resolve(name)
    if not (folder.path / GRAFT).is_file():
        raise ModelError(f"student.start_from: {name} is no draft that shares its target's embedding")
    try:
        return dequantise(load_file(folder.path / read_graft(folder)["weights"]), torch.float32)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"student.start_from: the weights of {name} cannot be read: {error}") from error


def check_shapes(own: Mapping[str, torch.Size], weights: Mapping[str, Tensor], name: str) -> None:
    for each in sorted(own.keys() | weights.keys()):
        expected = list(own[each]) if each in own else "none"
        found = list(weights[each].shape) if each in weights else "missing"
        if expected != found:
            raise StudentError(
                f"student.start_from: {each} of {name} is {found}, but this draft's is {expected}; kind, number of"
                " layers and target must be the same"
            )


def _empty(base: Base) -> PreTrainedModel:
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(base.folder.path, trust_remote_code=False)
        return empty_model(config, torch.float32)
    except (ValueError, KeyError, OSError, ImportError) as error:  # every architecture has checks of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnsupportedModelError(f"{base.name} cannot be distilled: {reason}") from error
