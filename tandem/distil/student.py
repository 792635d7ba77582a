"""The draft while it learns: a few of its target's layers, and the target's own embedding and output layer."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from tandem.inference.empty import empty_model, shared_names
from tandem.inference.feeding import FEED, make_fed
from tandem.inference.grafts import FEATURES, LAYERS
from tandem.inference.support import check_supported
from tandem.models import UnsupportedModelError


class StudentError(ValueError):
    """The recipe asks for layers that there are not; the message names the field."""


@dataclass(frozen=True, slots=True)
class Shape:
    """config: of the draft, as its folder has it. stack: name of the module with the layers. origins: for each layer
    of the draft, which of the target's it began as."""

    config: PretrainedConfig
    stack: str
    origins: tuple[int, ...]


class Student(nn.Module):
    """Gives logits over the tokens that the draft can say, only for the places that are asked for.

    Trained are the layers and what else is neither embedding nor output layer (the final norm), in float32. There is
    no dropout, whatever the target's config says: a run depends on nothing but its seed and data.

    state_distance: of the last pass, how far its states are from the target's, see `FeatureStudent`; None where nothing
    is to be learnt from these.
    """

    state_distance: Tensor | None = None

    def __init__(self, model: PreTrainedModel, rows: Tensor, bias: Tensor | None) -> None:
        """model: without weights in its output layer. rows: [S, H] of the target's output layer; bias: [S]."""
        super().__init__()
        self._head = _CutHead(rows, bias)
        model.set_output_embeddings(self._head)
        self._model = model.eval()
        embedding = model.get_input_embeddings()
        # It stays in the target's type, since it is as large as many layers; what is looked up in it is widened.
        embedding.register_forward_hook(lambda module, inputs, output: output.float())
        for parameter in (*embedding.parameters(), *self._head.parameters()):
            parameter.requires_grad_(False)

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        """tokens: int64 [B, T], padded at the right with anything. places: int64 [N], of tokens in the flattened batch,
        after each of which the next one is asked for. Returns float32 [N, S]."""
        self._head.places = places
        # Tokens see only what is before them, so padding at the right needs no mask.
        return self._model(input_ids=tokens, use_cache=False).logits.float()

    def own(self) -> dict[str, nn.Parameter]:
        """What is trained, by the names that transformers gives it."""
        return {name: weight for name, weight in self._model.named_parameters() if weight.requires_grad}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Takes weights by the names of `own`. Raises StudentError for others than these and for other shapes."""
        own = self.own()
        for name in sorted(own.keys() | weights.keys()):
            expected = list(own[name].shape) if name in own else "none"
            found = list(weights[name].shape) if name in weights else "missing"
            if expected != found:
                raise StudentError(f"{name} is {found}, but the draft's is {expected}")
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(weights[name])


class _CutHead(nn.Module):
    """The output layer, of the places that `Student.forward` asks for and the tokens that the draft can say."""

    def __init__(self, rows: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(rows)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.places: Tensor | None = None
        self.read: Tensor | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, H] -> [N, S]; `read` is then what it read, [N, H]."""
        assert self.places is not None
        self.read = hidden.flatten(0, 1)[self.places]
        return nn.functional.linear(self.read, self.weight, self.bias)


def shape_of(target: PreTrainedModel, layers: int, initial: Sequence[int] = ()) -> Shape:
    """A draft of so many of the target's layers: `initial`, or the first ones and the last.

    Raises UnsupportedModelError, naming the model, for what is no plain stack of layers, and StudentError.
    """
    check_supported(target)
    name, config = type(target).__name__, target.config
    if config.get_text_config() is not config:
        raise UnsupportedModelError(f"{name} cannot be distilled: its text model is part of a larger one")
    depth = config.num_hidden_layers
    stacks = [path for path, module in target.named_modules() if isinstance(module, nn.ModuleList)]
    stacks = [path for path in stacks if not any(path.startswith(f"{other}.") for other in stacks)]
    if len(stacks) != 1 or len(target.get_submodule(stacks[0])) != depth:  # type: ignore[arg-type]
        raise UnsupportedModelError(f"{name} cannot be distilled: it has not one stack of {depth} layers")
    if layers > depth:
        raise StudentError(f"student.layers is {layers}, but the target has {depth}")
    origins = tuple(initial) or (*range(layers - 1), depth - 1)
    if len(origins) != layers:
        raise StudentError(f"student.initial names {len(origins)} layers, but student.layers is {layers}")
    for origin in origins:
        if not 0 <= origin < depth:
            raise StudentError(f"student.initial names layer {origin}, but the target has 0 to {depth - 1}")
    return Shape(cut_config(config, origins), stacks[0], origins)


def cut_config(config: PretrainedConfig, origins: Sequence[int]) -> PretrainedConfig:
    """The config of a model of some of the layers; lists with an entry for each layer are cut alike."""
    depth = config.num_hidden_layers
    cut = copy.deepcopy(config)
    for key, value in config.to_dict().items():
        if isinstance(value, list | tuple) and len(value) == depth and "layer" in key:
            setattr(cut, key, [value[origin] for origin in origins])
    cut.num_hidden_layers = len(origins)
    return cut


def make_student(target: PreTrainedModel, shape: Shape, token_ids: Tensor, kind: str = LAYERS) -> Student:
    """A draft as it begins: the target's layers, to be trained. token_ids: int [S], what it can say. kind: LAYERS, or
    FEATURES for one that reads the target's features: it begins with these alone, as if embeddings said nothing.

    Raises UnsupportedModelError where a layer of the target does not fit its place in the draft.
    """
    name = type(target).__name__
    theirs = target.state_dict()
    shared = shared_names(target)
    config = copy.deepcopy(shape.config)
    # Soft-capped attention is only right in transformers' eager code.
    config._attn_implementation = "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"
    try:
        model = empty_model(config, torch.float32)
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise UnsupportedModelError(f"{name} cannot be distilled: {' '.join(str(error).split())}") from error
    weights = {}
    if kind == FEATURES:
        make_fed(model)
        width = config.hidden_size
        weights[f"{FEED}.weight"] = torch.cat([torch.zeros(width, width), torch.eye(width)], 1)
    for own, blank in model.state_dict().items():
        if own in weights:
            continue
        origin = _origin(own, shape)
        weight = theirs.get(origin)
        if weight is None or weight.shape != blank.shape:
            raise UnsupportedModelError(f"{name} cannot be distilled: {origin} of the target does not fit {own}")
        if own not in shared.head:
            weights[own] = weight.detach() if own in shared.embedding else weight.detach().float().clone()
    model.load_state_dict(weights, strict=False, assign=True)
    head = target.get_output_embeddings()
    ids = token_ids.long()
    bias = None if head.bias is None else head.bias.detach()[ids].float()
    rows = head.weight.detach()[ids].float()
    if kind == LAYERS:
        return Student(model, rows, bias)
    from tandem.distil.feature_student import FeatureStudent  # which is one

    return FeatureStudent(model, rows, bias, target)


def _origin(name: str, shape: Shape) -> str:
    """The target's name for a weight of the draft."""
    prefix = f"{shape.stack}."
    if not name.startswith(prefix):
        return name
    layer, _, rest = name.removeprefix(prefix).partition(".")
    return f"{prefix}{shape.origins[int(layer)]}.{rest}"
