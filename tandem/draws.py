"""Draws by inversion of the cumulative distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Entries that are summed at once when a long row is drawn from.
_SEGMENT = 256


def inverse_cdf(weights: Tensor, u: Tensor) -> Tensor:
    """Draws by inversion in the order of the ids: int64 [...].

    weights: [..., V], not negative, of any sum above 0; u: [...] in [0, 1). Sums in float64; never returns an
    entry of weight 0. Of what is no weights (NaN, or nothing above 0) it returns some id in [0, V), so that one bad
    row of a batch harms no other. A long row is searched in two steps, which spares its running sum.
    """
    u = u.to(torch.float64).unsqueeze(-1)
    size = weights.shape[-1]
    if size < 4 * _SEGMENT:
        return _invert(weights, u)[0].squeeze(-1)
    whole = size - size % _SEGMENT
    sums = weights[..., :whole].unflatten(-1, (-1, _SEGMENT)).sum(-1, dtype=torch.float64)
    if whole < size:
        sums = torch.cat([sums, weights[..., whole:].sum(-1, keepdim=True, dtype=torch.float64)], dim=-1)
    segment, u = _invert(sums, u)
    ids = segment * _SEGMENT + torch.arange(_SEGMENT, device=weights.device)
    inside = weights.gather(-1, ids.clamp(max=size - 1)).masked_fill(ids >= size, 0.0)
    return (segment * _SEGMENT + _invert(inside, u)[0]).clamp_(max=size - 1).squeeze(-1)


def _invert(weights: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Entry that u [..., 1] falls in, and where in that entry, as a new u: both [..., 1]."""
    cumulative = weights.to(torch.float64).cumsum(-1)
    if cumulative.is_cuda:  # its parallel sums may step down, or up where the weight is 0
        cumulative = cumulative.masked_fill(weights <= 0, -math.inf).cummax(-1).values
    total = cumulative[..., -1:].contiguous()
    target = u * total
    # u * total rounds up to total where u is next to 1: the last entry with weight takes that.
    entry = torch.searchsorted(cumulative, target, right=True)
    entry = torch.minimum(entry, torch.searchsorted(cumulative, total)).clamp_(max=weights.shape[-1] - 1)
    width = weights.gather(-1, entry).to(torch.float64)
    before = cumulative.gather(-1, entry) - width
    return entry, ((target - before) / width).clamp(0, 1)


def draw(probabilities: Tensor, u: float) -> int:
    """One draw from probabilities [V] (of any sum) with u in [0, 1). See `inverse_cdf`.

    Raises ValueError where they are not weights: log-probabilities go to `draw_log`.
    """
    if not (probabilities >= 0).all() or not 0 < float(probabilities.sum()) < math.inf:
        raise ValueError("draw takes probabilities: not negative, with a finite sum above 0")
    return int(inverse_cdf(probabilities, torch.tensor(u, dtype=torch.float64, device=probabilities.device)))


def draw_log(log_probabilities: Tensor, u: float) -> int:
    """One draw from log-probabilities [V] (natural logarithms) with u in [0, 1)."""
    return draw(log_probabilities.to(torch.float64).exp(), u)
