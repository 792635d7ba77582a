"""Quantises the weights of a loaded model: `--weights int8` and `--weights int4`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tandem.inference.fusion import Joined, fuse_norms, quicken_lookups, shared_inputs
from tandem.inference.quantised_linear import Int4Linear, Int8Head, Int8Linear, NotFiniteError
from tandem.inference.replay import replay_steps
from tandem.models import UnsupportedModelError

_log = logging.getLogger(__name__)

Kind = type[Int8Linear] | type[Int4Linear]
# Best first; a layer whose sizes none takes is left as it is.
_KINDS: Mapping[str, Sequence[Kind]] = {"int8": (Int8Linear,), "int4": (Int4Linear, Int8Linear)}


def quantise(model: PreTrainedModel, weights: str) -> None:
    """Replaces the linear layers of `model`; the embedding keeps its type, and what is computed becomes float32.

    weights: `int8`: a scale for each output; `int4`: a scale and a centre for each group of 32 inputs, the output
    layer int8. Layers that read the same input become one. Raises UnsupportedModelError, naming the model; what is
    left of it then cannot be used.
    """
    name = type(model).__name__
    if model.device.type != "cpu":
        raise UnsupportedModelError(
            f"{name}: {weights} weights on {model.device.type} are not supported yet; use --weights full"
        )
    try:
        counts = _replace(model, _KINDS[weights])
        _compute_in_float32(model)
        fuse_norms(model)
        quicken_lookups(model)
        _probe(model)
        replay_steps(model)
    except Exception as error:  # a model's own code runs here, around layers that it does not know
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnsupportedModelError(
            f"{name} cannot be served with --weights {weights}: {reason}; use --weights full"
        ) from error
    _log.info("quantised %s: %s", name, ", ".join(f"{len(found)} layers {kind}" for kind, found in counts.items()))
    if left := counts.get("left as they were"):
        _log.warning("%s: %s and %d more have sizes that cannot be quantised", name, left[0], len(left) - 1)


def _replace(model: PreTrainedModel, kinds: Sequence[Kind]) -> dict[str, list[str]]:
    """Names of the linear layers by what they became."""
    groups = shared_inputs(model)
    ran = {name for group in groups for name in group}
    groups += [[name] for name, module in model.named_modules() if type(module) is nn.Linear and name not in ran]
    head = model.get_output_embeddings()
    became: dict[str, list[str]] = {}
    for group in groups:
        members: dict[Kind, list[str]] = {}
        for name in group:
            layer: nn.Linear = model.get_submodule(name)  # type: ignore[assignment]
            kind = next((kind for kind in kinds if kind.takes(layer.out_features, layer.in_features)), None)
            if layer is head and kind is not None:
                _set(model, name, _head(model, layer))
                became.setdefault("int8", []).append(name)
            elif kind is not None:
                members.setdefault(kind, []).append(name)
                became.setdefault(kind.name, []).append(name)
            else:
                became.setdefault("left as they were", []).append(name)
        for kind, names in members.items():
            _join(model, kind, names)
    if became.keys() <= {"left as they were"}:
        raise ValueError("it has no linear layer that can be quantised")
    return became


def _join(model: nn.Module, kind: Kind, names: Sequence[str]) -> None:
    """Makes one layer of those named and puts its parts in their places."""
    layers: list[nn.Linear] = [model.get_submodule(name) for name in names]  # type: ignore[misc]
    try:
        joined = kind(torch.cat([layer.weight for layer in layers]), _biases(layers))
    except NotFiniteError as error:
        raise NotFiniteError(f"{' or '.join(names)}: {error}") from error
    parts = [joined] if len(names) == 1 else Joined(joined, [layer.out_features for layer in layers]).parts()
    for name, part in zip(names, parts, strict=True):
        _set(model, name, part)


def _biases(layers: Sequence[nn.Linear]) -> Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    return torch.cat([
        layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in layers
    ])  # fmt: skip


def _head(model: PreTrainedModel, layer: nn.Linear) -> Int8Head:
    embedding = model.get_input_embeddings()
    try:
        return Int8Head(layer.weight, layer.bias, shared=layer.weight is getattr(embedding, "weight", None))
    except NotFiniteError as error:
        raise NotFiniteError(f"the output layer: {error}") from error


def _set(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)


def _compute_in_float32(model: PreTrainedModel) -> None:
    """All but the kernels' inputs: as quick as bfloat16 between quantised layers, and closer to the model.

    The embedding keeps its type, since it is as large as many layers; what is looked up in it is widened.
    """
    embedding = model.get_input_embeddings()
    for module in model.modules():
        if module is not embedding:
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if tensor.is_floating_point():
                    tensor.data = tensor.data.float()
    embedding.register_forward_hook(lambda module, inputs, output: output.float())


def _probe(model: PreTrainedModel) -> None:
    with torch.inference_mode():
        logits = model(input_ids=torch.zeros(1, 2, dtype=torch.long), use_cache=False).logits
    if not torch.isfinite(logits).all():
        raise ValueError("its logits are not finite any more")
