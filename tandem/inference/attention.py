"""Attention over a ragged batch: all sequences' tokens lie in one row, each attends to its own cache only.

Registered with transformers as `tandem-ragged`, so that its own model code runs unchanged; the step's slices reach
the function as a keyword through the model's forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from tandem.inference.cache import KeyValueCache
from tandem.models import UnsupportedModelError

NAME = "tandem-ragged"


@dataclass(frozen=True, slots=True)
class Slice:
    """Where in the row one sequence's tokens lie, and its cache."""

    start: int
    stop: int
    cache: KeyValueCache


@dataclass(slots=True)
class Step:
    """One forward pass. windows: by layer that attended, the sliding window it asked for, None for all positions."""

    slices: Sequence[Slice]
    windows: dict[int, int | None] = field(default_factory=dict)
    _masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)

    def mask(self, count: int, length: int, window: int | None, like: Tensor) -> Tensor | None:
        """What the last `count` of `length` positions may see, to add to scores: [count, length]; None for all.

        Made once a step, not once a layer.
        """
        if count == 1 and (window is None or length <= window):
            return None
        key = (count, length, window)
        if key not in self._masks:
            rows = torch.arange(length - count, length, device=like.device).unsqueeze(1)
            columns = torch.arange(length, device=like.device)
            hidden = columns > rows
            if window is not None:
                hidden |= columns <= rows - window
            self._masks[key] = like.new_zeros(count, length).masked_fill_(hidden, float("-inf"))
        return self._masks[key]


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
    is_causal: bool | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """query [1, heads, tokens, dim], key and value [1, kv_heads, tokens, dim] -> [1, tokens, heads, dim].

    Causal within each slice and over its cache; sliding_window: how many last positions a token sees, itself
    included. Raises UnsupportedModelError for attention that is not causal, has sinks or a bias by position.
    """
    if is_causal is False or getattr(module, "is_causal", True) is False:
        raise UnsupportedModelError("its attention is not causal")
    for name in ("s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise UnsupportedModelError(f"its attention takes `{name}`")
    layer: int = module.layer_idx  # type: ignore[assignment]
    tandem_step.windows[layer] = sliding_window
    outputs = []
    for part in tandem_step.slices:
        rows = slice(part.start, part.stop)
        keys, values = part.cache.append(layer, key[0, :, rows], value[0, :, rows])
        if sliding_window is not None:  # what no row of the block can see is not read
            seen = sliding_window + part.stop - part.start - 1
            keys, values = keys[:, -seen:], values[:, -seen:]
        mask = tandem_step.mask(part.stop - part.start, keys.shape[1], sliding_window, query)
        outputs.append(_attend(query[0, :, rows], keys, values, mask, scaling, softcap))
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).unsqueeze(0), None


def _attend(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float | None, softcap: float | None
) -> Tensor:
    """query [heads, n, dim] against keys and values [kv_heads, length, dim] -> [n, heads, dim]."""
    heads, count, dim = query.shape
    kv_heads = keys.shape[0]
    groups = heads // kv_heads
    # The query heads that share a key head become rows of one attention, so keys and values are not repeated: on
    # the CPU two to five times faster for short blocks than SDPA's own `enable_gqa`, and equal for long ones.
    grouped = query.reshape(1, kv_heads, groups * count, dim)
    if mask is not None and groups > 1:
        mask = mask.repeat(groups, 1)
    if softcap is None:
        output = scaled_dot_product_attention(grouped, keys[None], values[None], attn_mask=mask, scale=scaling)
    else:
        scores = grouped @ keys[None].transpose(-1, -2) * (dim**-0.5 if scaling is None else scaling)
        scores = torch.tanh(scores / softcap) * softcap
        if mask is not None:
            scores = scores + mask
        output = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ values[None]
    return output.view(kv_heads, groups, count, -1).permute(2, 0, 1, 3).reshape(count, heads, -1)


def _no_mask(*args: object, **kwargs: object) -> None:
    """The function above knows what may be seen; transformers need not build a mask."""


AttentionInterface.register(NAME, ragged_attention)
AttentionMaskInterface.register(NAME, _no_mask)
