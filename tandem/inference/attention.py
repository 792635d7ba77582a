"""Attention over a ragged batch: all sequences' tokens lie in one row, each attends to its own cache only.

Registered with transformers as `tandem-ragged`, so that its own model code runs unchanged; the step's slices reach
the function as a keyword through the model's forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from tandem.inference.cache import KeyValueCache
from tandem.inference.loaded import UnsupportedModelError

NAME = "tandem-ragged"


@dataclass(frozen=True, slots=True)
class Slice:
    """Where in the row one sequence's tokens lie, and its cache."""

    start: int
    stop: int
    cache: KeyValueCache


@dataclass(slots=True)
class Step:
    """One forward pass. layers_seen: layers that attended through `ragged_attention`."""

    slices: Sequence[Slice]
    layers_seen: int = 0


def ragged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tandem_step: Step,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """query [1, heads, tokens, dim], key and value [1, kv_heads, tokens, dim] -> [1, tokens, heads, dim].

    Causal within each slice and over its cache; sliding_window: how many last positions a token sees, itself
    included. Raises UnsupportedModelError for attention sinks.
    """
    if kwargs.get("s_aux") is not None:
        raise UnsupportedModelError("attention sinks are not supported")
    layer = module.layer_idx
    tandem_step.layers_seen += 1
    outputs = []
    for part in tandem_step.slices:
        rows = slice(part.start, part.stop)
        keys, values = part.cache.append(layer, key[0, :, rows], value[0, :, rows])
        outputs.append(_attend(query[0, :, rows], keys, values, scaling, sliding_window, softcap))
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=0)).unsqueeze(0), None


def _attend(
    query: Tensor, keys: Tensor, values: Tensor, scaling: float | None, window: int | None, softcap: float | None
) -> Tensor:
    """query [heads, n, dim] against keys and values [kv_heads, length, dim] -> [n, heads, dim]."""
    heads, count, _ = query.shape
    kv_heads, length, _ = keys.shape
    groups = heads // kv_heads
    # The query heads that share a key head become rows of one attention: keys and values are not repeated.
    grouped = query.reshape(1, kv_heads, groups * count, -1)
    mask = _mask(count, length, window, query.device)
    if mask is not None:
        mask = mask.repeat(groups, 1)
    if softcap is None:
        output = scaled_dot_product_attention(grouped, keys[None], values[None], attn_mask=mask, scale=scaling)
    else:
        scores = grouped @ keys[None].transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        scores = torch.tanh(scores / softcap) * softcap
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        output = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ values[None]
    return output.view(heads, count, -1).transpose(0, 1)


def _mask(count: int, length: int, window: int | None, device: torch.device) -> Tensor | None:
    """Which of `length` positions each of the last `count` may see: bool [count, length]; None where all."""
    if count == 1 and (window is None or length <= window):
        return None
    rows = torch.arange(length - count, length, device=device).unsqueeze(1)
    columns = torch.arange(length, device=device)
    mask = columns <= rows
    return mask if window is None else mask & (columns > rows - window)


def _no_mask(*args: object, **kwargs: object) -> None:
    """The function above knows what may be seen; transformers need not build a mask."""


AttentionInterface.register(NAME, ragged_attention)
AttentionMaskInterface.register(NAME, _no_mask)
