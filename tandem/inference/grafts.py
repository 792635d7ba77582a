"""Drafts of a few layers on their base model's embedding and output layer: folders with a `tandem.json`.

    base         the model that it drafts for, as the services take it; revision: where it is a Hugging Face id
    weights      file of its own layers and final norm, safetensors; matrices may be int8 (`tandem.models.quantise`)
    vocabulary   file of the tokens that it can say (`cut_head.read_token_ids`); all of them without one
    cpu_weights  full, int8 or int4: what `--weights auto` takes on a CPU; full without it
    kind         features: it reads its base's features (`feeding`); layers, or without it: it reads tokens alone

Beside it lies config.json, that of a whole model with so many layers and the base's vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from tandem.inference.cut_head import cut_head, read_token_ids
from tandem.inference.empty import empty_model
from tandem.inference.feeding import make_fed
from tandem.models import ModelCorruptError, ModelFolder, resolve
from tandem.models.quantise import dequantise
from tandem.models.reference import GRAFT

#: Kinds of drafts: what they read.
LAYERS, FEATURES = KINDS = ("layers", "features")
_WEIGHTS = ("full", "int8", "int4")


def read_graft(folder: ModelFolder) -> dict[str, str]:
    """What `tandem.json` says: base and weights, and where they are given revision, vocabulary, cpu_weights and kind.

    Raises ModelCorruptError.
    """
    try:
        facts = json.loads((folder.path / GRAFT).read_text("utf-8"))
        facts = {"base": facts["base"], "weights": facts["weights"]} | facts
    except (ValueError, KeyError, TypeError) as error:
        raise ModelCorruptError(f"{folder.model_id}: {GRAFT} does not name a base and weights") from error
    if not isinstance(facts.get("vocabulary", ""), str):
        raise ModelCorruptError(f"{folder.model_id}: {GRAFT}: vocabulary must name a file")
    if facts.get("cpu_weights", "full") not in _WEIGHTS:
        raise ModelCorruptError(f"{folder.model_id}: {GRAFT}: cpu_weights must be one of {', '.join(_WEIGHTS)}")
    if facts.get("kind", LAYERS) not in KINDS:
        raise ModelCorruptError(f"{folder.model_id}: {GRAFT}: kind must be one of {', '.join(KINDS)}")
    return facts


def is_fed(folder: ModelFolder) -> bool:
    """Whether a grafted draft reads its base's features. Raises ModelCorruptError."""
    return read_graft(folder).get("kind", LAYERS) == FEATURES


def cpu_weights(folder: ModelFolder) -> str:
    """How a model's linear layers are to be held on a CPU, by its own folder: `full` where it does not say.

    Raises ModelCorruptError.
    """
    return read_graft(folder).get("cpu_weights", "full") if (folder.path / GRAFT).is_file() else "full"


def load_graft(
    folder: ModelFolder, config: PretrainedConfig, dtype: torch.dtype
) -> tuple[PreTrainedModel, Tensor | None]:
    """The model, and the tokens int32 [C] that its output layer was cut to, None where it is whole.

    Raises ModelCorruptError, ModelNotFoundError, or what reading its files raises.
    """
    facts = read_graft(folder)
    base = resolve(facts["base"], facts.get("revision"))
    token_ids = None
    try:
        weights = dequantise(load_file(folder.path / facts["weights"]), dtype)
    except ValueError as error:
        raise ModelCorruptError(f"{folder.model_id}: its weights cannot be used: {error}") from error
    try:
        if "vocabulary" in facts:
            token_ids = read_token_ids(folder.path / facts["vocabulary"], config.get_text_config().vocab_size)
    except ValueError as error:
        raise ModelCorruptError(f"{folder.model_id}: its vocabulary cannot be used: {error}") from error
    model = empty_model(config, dtype)
    if is_fed(folder):
        make_fed(model)
    expected = {name: list(weight.shape) for name, weight in model.state_dict().items()}
    embedding, *head = _shared(model)
    if config.tie_word_embeddings:
        expected.pop(head.pop(0), None)
    for name, weight in _base_weights(base.path, [embedding, *head]).items():
        weights[name] = weight.to(dtype)
    found = {name: list(weight.shape) for name, weight in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ModelCorruptError(
                f"{folder.model_id}: {name} is {found.get(name, 'missing')} and not {expected.get(name, 'expected')};"
                f" is it a draft for {base.model_id}?"
            )
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    if token_ids is not None:
        cut_head(model, token_ids)
    return model, token_ids


def _shared(model: PreTrainedModel) -> list[str]:
    """Names of what the draft has from its base: the embedding, the output layer's weight, and its bias if it has
    one."""
    names = {module: name for name, module in model.named_modules()}
    head = model.get_output_embeddings()
    embedding = names[model.get_input_embeddings()]
    return [f"{embedding}.weight", *(f"{names[head]}.{own}" for own, _ in head.named_parameters())]


def _base_weights(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """Some weights of a folder of safetensors, the others unread where the files name them as the model does."""
    found = {name: weight for name in names if (weight := _tensor(path, name)) is not None}
    if len(found) < len(names):
        # For some architectures the files have other names, which transformers knows how to change.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype="auto", trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
        model, report = loaded
        state = model.state_dict()
        found = {name: state[name] for name in names if name not in report["missing_keys"]}
    for name in names:
        if name not in found:
            raise KeyError(name)
    return found


def _tensor(path: Path, name: str) -> Tensor | None:
    """None where the files have none of this name."""
    index = path / "model.safetensors.index.json"
    file = json.loads(index.read_text())["weight_map"].get(name) if index.is_file() else "model.safetensors"
    if file is None:
        return None
    with safe_open(path / file, framework="pt") as tensors:
        return tensors.get_tensor(name) if name in tensors.keys() else None
