"""From a step's logits to the tokens drawn and the entries of the distributions that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.draws import inverse_cdf
from tandem.selection import top_places
from tandem.transfers import upload

# Entries of logits to work on at once on the CPU: what is computed of them stays in its cache.
_ENTRIES = 600_000


@dataclass(frozen=True, slots=True)
class Drawn:
    """Of n rows. tokens: int64 [n]. top_ids: int32 [n, K], likeliest first, of equals the smaller id first.
    top_log_probs: fp16 [n, K], nats, at temperature 1."""

    tokens: Tensor
    top_ids: Tensor
    top_log_probs: Tensor


def draw_and_keep(logits: Tensor, temperatures: Sequence[float], uniforms: Sequence[float], kept: int) -> Drawn:
    """Draws a token of each row at its temperature, and keeps the likeliest entries.

    logits: fp32 [n, V], all finite. temperatures: 0 takes the likeliest token. uniforms: in [0, 1), decides the draw by
    inversion. kept: K, at most V are kept. Nothing is read back from the device.
    """
    rows = max(1, _ENTRIES // logits.shape[-1]) if logits.is_cpu else len(logits)
    parts = [
        _draw_and_keep(logits[start : start + rows], temperatures[start : start + rows],
                       uniforms[start : start + rows], min(kept, logits.shape[-1]))
        for start in range(0, len(logits), rows)
    ]  # fmt: skip
    if len(parts) == 1:
        return parts[0]
    return Drawn(
        torch.cat([part.tokens for part in parts]),
        torch.cat([part.top_ids for part in parts]),
        torch.cat([part.top_log_probs for part in parts]),
    )


def _draw_and_keep(logits: Tensor, temperatures: Sequence[float], uniforms: Sequence[float], kept: int) -> Drawn:
    device = logits.device
    ids = top_places(logits, kept).sort(-1).values
    values, order = logits.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    ids = ids.gather(-1, order)
    shifted = logits - values[:, :1]
    weights = shifted.exp()
    log_sums = weights.sum(-1, keepdim=True).log()
    top_log_probs = (values - values[:, :1] - log_sums).to(torch.float16)
    tokens = ids[:, 0]
    drawn = [row for row, temperature in enumerate(temperatures) if temperature > 0]
    if drawn:
        scaled = [row for row in drawn if temperatures[row] != 1]
        if scaled:
            which = upload(scaled, torch.long, device)
            inverse = upload([1 / temperatures[row] for row in scaled], torch.float32, device).unsqueeze(1)
            weights[which] = shifted[which].mul_(inverse).exp_()
        which = upload(drawn, torch.long, device)
        u = upload([uniforms[row] for row in drawn], torch.float64, device)
        tokens = tokens.index_copy(0, which, inverse_cdf(weights[which], u))
    return Drawn(tokens, ids.to(torch.int32), top_log_probs)
