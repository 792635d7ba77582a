"""Distance of p, known in full, from a q of which only the head is known: a lower and an upper bound.

Known of q's tail: its mass, and that none of its entries exceeds the smallest one sent, c. The divergence is convex
in q, so over those tails
- its minimum is at q_i = min(r p_i, c) with the r that gives the tail its mass. With r from a few steps of a fixed
  point, and the Lagrangian in place of the constraint, the bound holds whatever r is. Merging the tails into one
  bucket (the data-processing bound) is the case in which no entry reaches c;
- its maximum puts entries of size c where p is smallest; it is at most that of disjoint tails.
Without a tail both are the distance itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tandem.compression import CompressedRow, full_law, laws
from tandem.divergences import divergence_terms, exp_, js_distance, total_variation
from tandem.selection import top_values
from tandem.transfers import to_host, upload

# p's largest entries that may reach the cap c in the lower bound; for smaller ones the cap is not used.
_CAPPED = 64
_STEPS = 6
_LARGEST_RATIO = 1e9
# More than what a sum over a row is off by.
_NOTHING = 1e-13
# The tail mass is a float32: it moves the distance by less than this.
_ROUNDING = 1e-6
# More than any vocabulary, and an int64.
_MANY = 1 << 31


class Tail(NamedTuple):
    """What the host knows of a row that has a tail: its place, how many entries are listed, and how many of the size
    of the cap c the tail would fill."""

    row: int
    listed: int
    filled: int


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """The rows of a block, padded to one width by repeating their first entry.

    token_ids: int64 [n, k]. q: float64 [n, k]. listed: float64 [n, k], 0 for padding, 1 otherwise.
    tail_mass, least: float64 [n], mass outside and smallest listed entry. tails: of the rows that have one.
    """

    token_ids: Tensor
    q: Tensor
    listed: Tensor
    tail_mass: Tensor
    least: Tensor
    tails: Sequence[Tail]

    @property
    def cap(self) -> Tensor:
        """What no entry outside exceeds: float64 [n]."""
        return self.least * (1 + _ROUNDING)


def stack(rows: Sequence[CompressedRow], device: torch.device) -> Heads:
    """Heads of at least one row, on the device. The rows are read on the CPU, where they come from."""
    lengths = [len(row.token_ids) for row in rows]
    token_ids, q = laws(rows)
    padding = torch.arange(token_ids.shape[-1]) >= torch.tensor(lengths).unsqueeze(1)
    token_ids, q = (torch.where(padding, column[:, :1], column) for column in (token_ids, q))
    masses = [row.tail_mass for row in rows]
    least = q.amin(-1)
    tails = [
        # An entry may be so small that its share of the tail is no number.
        Tail(index, length, int(mass / (entry * (1 + _ROUNDING))) if mass < entry * _MANY else _MANY)
        for index, (length, mass, entry) in enumerate(zip(lengths, masses, least.tolist(), strict=True))
        if mass > 0
    ]
    return Heads(
        upload(token_ids, torch.long, device),
        upload(q, torch.float64, device),
        upload(~padding, torch.float64, device),
        upload(masses, torch.float64, device),
        upload(least, torch.float64, device),
        tails,
    )


@dataclass(frozen=True, slots=True)
class Distances:
    """Float64 [n] each: bounds of the Jensen-Shannon distance, and (an upper bound of) the total variation."""

    lower: Tensor
    upper: Tensor
    total_variation: Tensor


def distances(p: Tensor, heads: Heads) -> Distances:
    """Distances of p float64 [n, V] (normalised) from the rows; exact, lower equal to upper, where tail_mass is 0."""
    p_head = p.gather(-1, heads.token_ids) * heads.listed
    q_head = heads.q * heads.listed
    p_mass, q_mass = (1 - p_head.sum(-1)).clamp(min=0), heads.tail_mass
    head = divergence_terms(p_head, q_head).sum(-1)
    variation = ((p_head - q_head).abs().sum(-1) + p_mass + q_mass) / 2
    lower = upper = head + (p_mass + q_mass) / 2
    if heads.tails:
        which = _places([tail.row for tail in heads.tails], p)
        tail_p = p[which].scatter_(-1, heads.token_ids[which], 0.0)
        slack = torch.zeros_like(lower).index_fill_(0, which, _ROUNDING)
        tail = _least_tail(tail_p, p_mass[which], q_mass[which], heads.cap[which])
        lower = lower.index_copy(0, which, head[which] + tail)
        crowded = [at for at, tail in enumerate(heads.tails) if 8 * (tail.filled + 1) >= p.shape[-1] - tail.listed]
        if crowded:
            found = [heads.tails[at] for at in crowded]
            rows = _places([tail.row for tail in found], p)
            saved, overlap = _forced_overlap(tail_p[_places(crowded, p)], heads, rows, found)
            upper, variation = upper.index_add(0, rows, -saved), variation.index_add(0, rows, -overlap)
    else:
        slack = torch.zeros_like(lower)
    return Distances(
        lower=(lower.clamp(0, 1).sqrt() - slack).clamp(min=0),
        upper=(upper.clamp(0, 1).sqrt() + slack).clamp(max=1),
        total_variation=(variation + slack).clamp(max=1),
    )


def distance_bracket(log_p: Tensor, row: CompressedRow) -> tuple[float, float, float]:
    """Lower and upper bound of the distance, and (an upper bound of) the total variation, of log_p [V] from a row."""
    found = distances(probabilities(log_p.unsqueeze(0)), stack([row], log_p.device))
    return float(found.lower), float(found.upper), float(found.total_variation)


def full_row_distance(log_p: Tensor, log_q: Tensor) -> tuple[float, float]:
    """Distance and total variation of log_p [V] from a full fp16 row [V] of q."""
    return full_row_distances(log_p.unsqueeze(0), log_q.unsqueeze(0))[0]


def full_row_distances(log_p: Tensor, log_q: Tensor) -> list[tuple[float, float]]:
    """`full_row_distance` of each row of log_p and log_q [n, V], brought back from the device together."""
    p, q = probabilities(log_p), full_law(upload(log_q, log_q.dtype, log_p.device))
    found = to_host([{"distance": js_distance(p, q), "variation": total_variation(p, q)}])[0]
    return list(zip(found["distance"].tolist(), found["variation"].tolist(), strict=True))


def probabilities(log_p: Tensor) -> Tensor:
    """Probabilities float64 [..., V], normalised: fp32 log-probabilities sum to 1 within 1e-6 only."""
    p = exp_(log_p.to(torch.float64, copy=True))
    return p.div_(p.sum(-1, keepdim=True))


def _least_tail(tail_p: Tensor, p_mass: Tensor, q_mass: Tensor, cap: Tensor) -> Tensor:
    """Least divergence of the tails in bits: [n]. tail_p: [n, V], 0 in the head."""
    top = top_values(tail_p, min(_CAPPED, tail_p.shape[-1]))
    rest = (p_mass - top.sum(-1)).clamp(min=0)
    cap = cap.unsqueeze(-1)
    ratio = (q_mass / p_mass).clamp(1 / _LARGEST_RATIO, _LARGEST_RATIO)
    for _ in range(_STEPS):
        capped = top * ratio.unsqueeze(-1) > cap
        left_q = q_mass - (capped * cap).sum(-1)
        left_p = p_mass - (capped * top).sum(-1)
        # Where every token of p's tail reaches c, what is left is rounding, of either sign: q's rest is where p is 0.
        left_p = left_p.masked_fill(left_p < _NOTHING, 0.0)
        ratio = torch.maximum(ratio, (left_q / left_p).nan_to_num(nan=0.0)).clamp(max=_LARGEST_RATIO)
    top_q = torch.minimum(top * ratio.unsqueeze(-1), cap)
    # The derivative of a token's term by q where q = ratio p: the price of mass at the minimum.
    price = torch.log2(2 * ratio / (1 + ratio)) / 2
    terms = divergence_terms(top, top_q).sum(-1) + divergence_terms(rest, rest * ratio)
    return (terms - price * (top_q.sum(-1) + rest * ratio - q_mass)).clamp(min=0)


def _forced_overlap(tail_p: Tensor, heads: Heads, rows: Tensor, tails: Sequence[Tail]) -> tuple[Tensor, Tensor]:
    """By how much these tails must fall short of disjoint ones, in bits and in total variation: [m] each.

    tail_p: [m, V] of the rows of the heads. The farthest tail puts the cap on the tokens of smallest p (what two
    entries share grows with both, and so does its derivative). Where those are few against the vocabulary they hold
    next to nothing of p: the sort is saved, and this is not called.
    """
    most = max(tail.filled for tail in tails) + 1
    outside = tail_p.scatter(-1, heads.token_ids[rows], math.inf)
    p = outside.sort(-1).values[:, :most]
    filled, sizes = (
        _places(column, p).unsqueeze(1)
        for column in ([tail.filled for tail in tails], [tail_p.shape[-1] - tail.listed for tail in tails])
    )
    cap, mass = heads.cap[rows].unsqueeze(1), heads.tail_mass[rows].unsqueeze(1)
    rank = torch.arange(p.shape[-1], device=p.device)
    q = torch.where(rank < filled, cap, mass - filled * cap)
    beyond = (rank > filled) | (rank >= sizes)
    p, q = p.masked_fill(beyond, 0.0), q.masked_fill(beyond, 0.0)
    return ((p + q) / 2 - divergence_terms(p, q)).sum(-1), torch.minimum(p, q).sum(-1)


def _places(values: Sequence[int], like: Tensor) -> Tensor:
    return upload(values, torch.long, like.device)
