"""The models of the rig, made of the embedded target's weights."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.rig import BASE
from tandem.models import ModelError, resolve
from tandem.models.home import make_once

_WEIGHTS, _CONFIG, _MANIFEST = "model.safetensors", "config.json", "tandem-manifest.json"
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"

Tensors = Mapping[str, Tensor]
Config = Mapping[str, Any]


def wide_target(width: int) -> Path:
    """The folder of the base model with layers `width` times as wide. Raises ModelError."""
    return make_once(
        f"rig-wide-{width}", lambda folder: _write(folder, lambda t: widened(t, width), lambda c: wide_config(c, width))
    )


def noisy_draft(share: float) -> Path:
    """The folder of the base model with noise in its weights. Raises ModelError."""
    return make_once(f"rig-noise-{share:g}", lambda folder: _write(folder, lambda t: noisy(t, share), dict))


def widened(tensors: Tensors, width: int) -> dict[str, Tensor]:
    """Weights of a Llama model of `width` times the hidden size, heads and inner size that computes the same logits.

    The hidden state is the small one's `width` times over, so that each norm, a mean over it, is the same. Linear
    layers are block-diagonal: each copy is computed from its own, exactly, at the price of a dense layer. The output
    layer reads the first copy. Biases are repeated.
    """
    wide: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in (_EMBEDDING, _HEAD):
            continue
        wide[name] = torch.block_diag(*[tensor] * width) if tensor.dim() == 2 else tensor.repeat(width)
    embedding = tensors[_EMBEDDING]
    head = tensors.get(_HEAD, embedding)
    wide[_EMBEDDING] = embedding.repeat(1, width)
    wide[_HEAD] = torch.cat([head, head.new_zeros(head.shape[0], head.shape[1] * (width - 1))], dim=1)
    return wide


def wide_config(config: Config, width: int) -> dict[str, Any]:
    """Of the model that `widened` makes. Raises ModelError for a model that is no Llama."""
    if config.get("model_type") != "llama":
        raise ModelError(f"only Llama models can be widened, not {config.get('model_type')}")
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    return {
        **config,
        **{name: config[name] * width for name in sizes},
        "head_dim": head_dim,
        "tie_word_embeddings": False,
    }


def noisy(tensors: Tensors, share: float) -> dict[str, Tensor]:
    """Each linear layer with normal noise of `share` of its weights' standard deviation, from a seed that is its name.

    Embedding and output layer stay as they are, as they do in drafts that are quantised or distilled.
    """

    def changed(name: str, tensor: Tensor) -> Tensor:
        if tensor.dim() != 2 or name in (_EMBEDDING, _HEAD):
            return tensor
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        exact = tensor.float()
        noise = torch.randn(exact.shape, generator=generator)
        return (exact + share * exact.std() * noise).to(tensor.dtype)

    return {name: changed(name, tensor) for name, tensor in tensors.items()}


def _write(
    folder: Path, change: Callable[[Tensors], dict[str, Tensor]], change_config: Callable[[Config], dict[str, Any]]
) -> None:
    base = resolve(BASE, None).path
    for path in base.iterdir():
        if path.name not in (_WEIGHTS, _CONFIG, _MANIFEST):
            shutil.copy(path, folder)
    config = change_config(json.loads((base / _CONFIG).read_text()))
    tensors = {name: tensor.contiguous() for name, tensor in change(load_file(base / _WEIGHTS)).items()}
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    (folder / _CONFIG).write_text(json.dumps(config, indent=1))
