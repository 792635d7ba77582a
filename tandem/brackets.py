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

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.compression import CompressedRow, full_law, law
from tandem.divergences import divergence_terms, js_distance, total_variation

# p's largest entries that may reach the cap c in the lower bound; for smaller ones the cap is not used.
_CAPPED = 64
_STEPS = 6
_LARGEST_RATIO = 1e9
# The tail mass is a float32: it moves the distance by less than this.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Heads:
    """The rows of a block, padded to one width by repeating their first entry.

    token_ids: int64 [n, k]. q: float64 [n, k]. listed: float64 [n, k], 0 for padding, 1 otherwise.
    tail_mass, least: float64 [n], mass outside and smallest listed entry.
    """

    token_ids: Tensor
    q: Tensor
    listed: Tensor
    tail_mass: Tensor
    least: Tensor


def stack(rows: Sequence[CompressedRow], device: torch.device) -> Heads:
    """Heads of at least one row, on the device."""
    laws = [law(row) for row in rows]
    widest = max(len(ids) for ids, _ in laws)
    token_ids = torch.stack([torch.cat([ids, ids[:1].expand(widest - len(ids))]) for ids, _ in laws])
    q = torch.stack([torch.cat([probs, probs[:1].expand(widest - len(probs))]) for _, probs in laws])
    lengths = torch.tensor([len(ids) for ids, _ in laws], device=q.device)
    listed = (torch.arange(widest, device=q.device) < lengths.unsqueeze(1)).to(torch.float64)
    tail_mass = torch.tensor([row.tail_mass for row in rows], dtype=torch.float64, device=q.device)
    return Heads(*(column.to(device) for column in (token_ids, q, listed, tail_mass, q.amin(-1))))


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
    if bool((q_mass > 0).any()):
        cap = heads.least * (1 + _ROUNDING)
        tail_p = p.scatter(-1, heads.token_ids, 0.0)
        lower = torch.where(q_mass > 0, head + _least_tail(tail_p, p_mass, q_mass, cap), lower)
        saved, overlap = _forced_overlap(tail_p, heads, cap)
        upper, variation = upper - saved, variation - overlap
    slack = torch.where(q_mass > 0, _ROUNDING, 0.0)
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
    p, q = probabilities(log_p), full_law(log_q.to(log_p.device))
    return float(js_distance(p, q)), float(total_variation(p, q))


def probabilities(log_p: Tensor) -> Tensor:
    """Probabilities float64 [..., V], normalised: fp32 log-probabilities sum to 1 within 1e-6 only."""
    p = log_p.to(torch.float64).exp_()
    return p.div_(p.sum(-1, keepdim=True))


def _least_tail(tail_p: Tensor, p_mass: Tensor, q_mass: Tensor, cap: Tensor) -> Tensor:
    """Least divergence of the tails in bits: [n]. tail_p: [n, V], 0 in the head."""
    top = tail_p.topk(min(_CAPPED, tail_p.shape[-1]), dim=-1).values
    rest = (p_mass - top.sum(-1)).clamp(min=0)
    cap = cap.unsqueeze(-1)
    ratio = (q_mass / p_mass).clamp(1 / _LARGEST_RATIO, _LARGEST_RATIO)
    for _ in range(_STEPS):
        capped = top * ratio.unsqueeze(-1) > cap
        left_q = q_mass - (capped * cap).sum(-1)
        left_p = p_mass - (capped * top).sum(-1)
        ratio = torch.maximum(ratio, (left_q / left_p).nan_to_num(nan=0.0)).clamp(max=_LARGEST_RATIO)
    top_q = torch.minimum(top * ratio.unsqueeze(-1), cap)
    # The derivative of a token's term by q where q = ratio p: the price of mass at the minimum.
    price = torch.log2(2 * ratio / (1 + ratio)) / 2
    terms = divergence_terms(top, top_q).sum(-1) + divergence_terms(rest, rest * ratio)
    return (terms - price * (top_q.sum(-1) + rest * ratio - q_mass)).clamp(min=0)


def _forced_overlap(tail_p: Tensor, heads: Heads, cap: Tensor) -> tuple[Tensor, Tensor]:
    """By how much the tails must fall short of disjoint ones, in bits and in total variation: [n] each.

    The farthest tail puts cap on the tokens of smallest p (what two entries share grows with both, and so does its
    derivative). Where those are few against the vocabulary they hold next to nothing of p: the sort is saved.
    """
    saved, overlap = torch.zeros_like(cap), torch.zeros_like(cap)
    sizes = (tail_p.shape[-1] - heads.listed.sum(-1)).tolist()
    for row, (size, mass, most) in enumerate(zip(sizes, heads.tail_mass.tolist(), cap.tolist(), strict=True)):
        filled = min(int(mass / most), int(size))
        if mass == 0 or 8 * (filled + 1) < size:
            continue
        in_tail = torch.ones_like(tail_p[row], dtype=torch.bool).scatter_(0, heads.token_ids[row], False)
        p = tail_p[row][in_tail].sort().values[: filled + 1]
        q = torch.full_like(p, most)
        q[filled:] = mass - filled * most
        saved[row] = ((p + q) / 2 - divergence_terms(p, q)).sum()
        overlap[row] = torch.minimum(p, q).sum()
    return saved, overlap
