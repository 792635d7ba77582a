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

from tandem.inference.step import Part, Step
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
    tandem_step.windows[layer] = sliding_window
    _, heads, rows, _ = query.shape
    kv_heads = key.shape[1]
    count = tandem_step.count  # rows beyond it only fill up
    keys, values = key[0], value[0]
    tandem_step.write(layer, *((keys, values) if rows == count else (keys[:, :count], values[:, :count])))
    groups = heads // kv_heads
    # The query heads that share a key head become rows of one attention, so keys and values are not repeated: on the
    # CPU in bf16 two to five times faster for short blocks than SDPA's own `enable_gqa`, and equal for long ones.
    queries: Sequence[Tensor]
    if rows == 1:
        queries = (query.reshape(1, kv_heads, groups, -1),)
    elif tandem_step.is_one_token_each:
        queries = query[0, :, :count].transpose(0, 1).reshape(count, 1, kv_heads, groups, -1).unbind()
    else:
        queries = [
            query[:, :, part.start : part.stop].reshape(1, kv_heads, groups * part.count, -1)
            for part in tandem_step.parts
        ]
    outputs = [
        _attend(tandem_step, part, layer, one, scaling, sliding_window, softcap, groups)
        for part, one in zip(tandem_step.parts, queries, strict=True)
    ]
    if not tandem_step.is_one_token_each:
        outputs = [
            output.view(kv_heads, groups, part.count, -1).permute(2, 0, 1, 3).reshape(part.count, kv_heads, groups, -1)
            for part, output in zip(tandem_step.parts, outputs, strict=True)
        ]
    if count < rows:
        outputs.append(outputs[0].new_zeros(rows - count, *outputs[0].shape[1:]))
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return output.reshape(1, len(output), heads, -1), None


def _attend(
    step: Step,
    part: Part,
    layer: int,
    query: Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    groups: int,
) -> Tensor:
    """query [1, kv_heads, groups * n, dim] of one part of n tokens -> the same of its values' dim."""
    pieces = part.pieces(window, whole=softcap is not None)
    if len(pieces) == 1:
        [piece] = pieces
        keys, values = piece.at(layer)
        mask = step.mask(part, piece, window, groups, query)
        if softcap is not None:
            return _soft_capped(query, keys, values, mask, scaling, softcap)
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scaling)
    attended = [
        _flash(
            query, *piece.at(layer), 0.0, False, attn_mask=step.mask(part, piece, window, groups, query), scale=scaling
        )
        for piece in pieces
    ]
    return _merge([output for output, _ in attended], [weight for _, weight in attended])


def _merge(outputs: list[Tensor], log_sums: list[Tensor]) -> Tensor:
    """Attention over all entries from that over each piece, weighted by the sums of its exponentials.

    outputs: [1, heads, rows, dim] each; log_sums: their logarithms, fp32 [1, heads, rows]. As in FlashAttention
    (Dao et al., arXiv 2205.14135, section 3.1).
    """
    shares = torch.softmax(torch.stack(log_sums), dim=0).unsqueeze(-1)
    merged = shares[0] * outputs[0]
    for share, output in zip(shares[1:], outputs[1:], strict=True):
        merged = torch.addcmul(merged, share, output.float())
    return merged.to(outputs[0].dtype)


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
