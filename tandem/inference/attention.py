"""Attention over a ragged batch: all sequences' tokens lie in one row, each attends to its own entries only.

Registered with transformers as `tandem-ragged`, so that its own model code runs unchanged; the step reaches the
function as a keyword through the model's forward.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from tandem.inference.step import Piece, Step
from tandem.models import UnsupportedModelError

NAME = "tandem-ragged"

# The kernel that `scaled_dot_product_attention` takes on a CPU; called by name, it says how much each row weighs.
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


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

    Causal within each part of the step and over its cached entries; sliding_window: how many last positions a token
    sees, itself included. Raises UnsupportedModelError for attention that is not causal, has sinks or a bias by
    position.
    """
    if is_causal is False or getattr(module, "is_causal", True) is False:
        raise UnsupportedModelError("its attention is not causal")
    for name in ("s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise UnsupportedModelError(f"its attention takes `{name}`")
    layer: int = module.layer_idx  # type: ignore[assignment]
    step, count = tandem_step, tandem_step.count
    step.windows[layer] = sliding_window
    _, heads, rows, _ = query.shape
    if count < rows:  # the others only fill up
        query, key, value = query[:, :, :count], key[:, :, :count], value[:, :, :count]
    step.write(layer, key[0], value[0])
    kv_heads = key.shape[1]
    queries = _queries(step, query, kv_heads)
    sections = 1 if softcap is not None else step.sections(sliding_window)
    if sections > 1:
        attended = _attend_in_sections(step, layer, queries, sections, scaling, sliding_window)
    else:
        attended = _attend(step, layer, queries, scaling, sliding_window, softcap)
    output = _in_order(step, attended, heads)
    if count < rows:
        output = torch.cat([output, output.new_zeros(rows - count, *output.shape[1:])])
    return output.unsqueeze(0), None


def _queries(step: Step, query: Tensor, kv_heads: int) -> Sequence[Tensor]:
    """query [1, heads, tokens, dim] -> of each part of n tokens, [1, kv_heads, heads / kv_heads * n, dim].

    The query heads that share a key head become rows of one attention, so keys and values are not repeated: on the CPU
    in bf16 two to five times faster for short blocks than SDPA's own `enable_gqa`, and equal for long ones.
    """
    parts, each = step.parts, step.tokens_each
    if len(parts) == 1:
        return [query.reshape(1, kv_heads, -1, query.shape[3])]
    if each is None:
        return [query[:, :, part.start : part.stop].reshape(1, kv_heads, -1, query.shape[3]) for part in parts]
    # All parts at once, since for many short ones each call counts.
    by_part = query.unflatten(2, (len(parts), each)).permute(2, 0, 1, 3, 4)
    return by_part.reshape(len(parts), 1, kv_heads, -1, query.shape[3]).unbind()


def _in_order(step: Step, outputs: Sequence[Tensor], heads: int) -> Tensor:
    """What was made of `_queries`, in one tensor or several -> [tokens, heads, dim]."""
    dim = outputs[0].shape[3]
    if step.tokens_each is None:
        return torch.cat(
            [
                output.view(heads, part.count, dim).transpose(0, 1)
                for part, output in zip(step.parts, outputs, strict=True)
            ]
        )
    joined = outputs[0] if len(outputs) == 1 else torch.cat(list(outputs))
    if step.tokens_each == 1:
        return joined.view(-1, heads, dim)
    return joined.view(-1, heads, step.tokens_each, dim).transpose(1, 2).reshape(-1, heads, dim)


def _attend(
    step: Step,
    layer: int,
    queries: Sequence[Tensor],
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Sequence[Tensor]:
    """queries [1, kv_heads, rows, dim] of each part -> the same of its values' dim."""
    seen = step.seen(window, queries, whole=softcap is not None)
    if softcap is not None:
        return [
            _soft_capped(query, *piece.at(layer), mask, scaling, softcap)
            for query, [(piece, mask)] in zip(queries, seen, strict=True)
        ]
    return [
        scaled_dot_product_attention(query, *pieces[0][0].at(layer), attn_mask=pieces[0][1], scale=scaling)
        if len(pieces) == 1
        else _merged(query, pieces, layer, scaling)
        for query, pieces in zip(queries, seen, strict=True)
    ]


def _attend_in_sections(
    step: Step, layer: int, queries: Sequence[Tensor], sections: int, scaling: float | None, window: int | None
) -> Sequence[Tensor]:
    """As `_attend`. Keys of all parts are cut into so many sections, and what is made of them is merged at once."""
    attended = [
        _flash(query.expand(sections, -1, -1, -1), *piece.at(layer), 0.0, False, attn_mask=mask, scale=scaling)
        for query, (piece, mask) in zip(
            queries, step.seen_in_sections(window, queries, sections), strict=True
        )
    ]
    outputs, log_sums = (torch.cat(tensors).unflatten(0, (-1, sections)) for tensors in zip(*attended, strict=True))
    return [_merge(outputs, log_sums, dim=1)]


def _merged(
    query: Tensor, pieces: Sequence[tuple[Piece, Tensor | None]], layer: int, scaling: float | None
) -> Tensor:
    attended = [_flash(query, *piece.at(layer), 0.0, False, attn_mask=mask, scale=scaling) for piece, mask in pieces]
    outputs, log_sums = (torch.cat(tensors) for tensors in zip(*attended, strict=True))
    return _merge(outputs, log_sums, dim=0).unsqueeze(0)


def _merge(outputs: Tensor, log_sums: Tensor, dim: int) -> Tensor:
    """Attention over all entries from that over parts of them, weighted by the sums of its exponentials.

    outputs: [..., heads, rows, dim] with the parts along `dim`, which goes; log_sums: their logarithms, fp32
    [..., heads, rows]. As in FlashAttention (Dao et al., arXiv 2205.14135, section 3.1).
    """
    shares = torch.softmax(log_sums, dim).unsqueeze(-1)
    return (shares * outputs).sum(dim).to(outputs.dtype)


def _soft_capped(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float | None, softcap: float
) -> Tensor:
    scores = query @ keys.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ values


def _no_mask(*args: object, **kwargs: object) -> None:
    """The step knows what may be seen; transformers need not build a mask."""


AttentionInterface.register(NAME, ragged_attention)
AttentionMaskInterface.register(NAME, _no_mask)
