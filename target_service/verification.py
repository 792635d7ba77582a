"""Verification of a block of candidates: the numbers on which acceptance is decided, under one exact rule.

Pure: no gRPC, no model. The formulas are in `target_service.rules`; here they meet compressed rows and noise. Lossy
rules are decided elsewhere, on top of these numbers.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tandem.distributions import (
    CompressedRow,
    Distances,
    Heads,
    distances,
    entropy,
    probabilities,
    stack,
    top3_entropy,
)
from tandem.noise import NoiseStream, Purpose
from tandem.sampling import gumbel_argmax_rows, inverse_cdf
from target_service.rules import block_acceptance, block_weights, ratio_acceptance, residual, surplus

#: At temperature 0 a lossy rule may let through what has at least this share of the largest probability [ours].
GREEDY_SUPPORT = 0.1


class Rule(enum.Enum):
    """An exact rule. GREEDY is that of temperature 0; the others need temperature above 0."""

    GREEDY = "greedy"
    RATIO = "ratio"
    BLOCK = "block"
    COUPLED = "coupled"


@dataclass(slots=True)
class BlockNumbers:
    """Columns over a block of n candidates; (n) has an entry per candidate, (n + 1) one per position.

    They are the columns of `VerifiedBlock` in target.proto, which says what each holds. Logarithms and entropies in
    nats, distances in [0, 1]. total_variations and distances are empty where no rows were given.
    """

    acceptance: list[float]  # (n)
    corrections: list[int]  # (n)
    target_tokens: list[int]  # (n + 1)
    log_p: list[float]  # (n)
    max_log_p: list[float]  # (n + 1)
    target_log_p: list[float]  # (n + 1)
    correction_log_p: list[float]  # (n)
    entropies: list[float]  # (n + 1)
    top3_entropies: list[float]  # (n + 1)
    in_support: list[bool]  # (n)
    total_variations: list[float] = field(default_factory=list)  # (n)
    distances_lower: list[float] = field(default_factory=list)  # (n)
    distances_upper: list[float] = field(default_factory=list)  # (n)


def target_tokens(rule: Rule, log_p: Tensor, noise: NoiseStream, position: int) -> Tensor:
    """The target's own token at each position: int64 [n] of log-probabilities [n, V].

    The likeliest under GREEDY (the lowest id among equals), the coupled draw under COUPLED, a draw from p under the
    others. Row i is at absolute position `position` + i. Plain decoding emits these.
    """
    if rule is Rule.GREEDY:
        return log_p.argmax(-1)
    if rule is Rule.COUPLED:
        return gumbel_argmax_rows(log_p, noise, position)
    return inverse_cdf(probabilities(log_p), _uniforms(noise, Purpose.TARGET, position, len(log_p), log_p.device))


def verify(
    rule: Rule,
    log_p: Tensor,
    candidates: Sequence[int],
    rows: Sequence[CompressedRow] | None,
    noise: NoiseStream,
    position: int,
    greedy: bool | None = None,
) -> BlockNumbers:
    """The numbers of one block.

    log_p: fp32 [n + 1, V], log-probabilities after the request's chain. candidates: n tokens, maybe none. rows: q of
    each candidate; None where it was not sent, which RATIO and BLOCK refuse (their q is `law(row)`, the law the
    draft drew from). position: absolute position of the first candidate. greedy: whether the temperature is 0; only
    GREEDY has it, so it may be left out.
    Raises ValueError where these do not fit together, naming what does not.
    """
    count = len(candidates)
    _check(rule, log_p, candidates, rows, greedy)
    device = log_p.device
    x = torch.tensor(candidates, dtype=torch.long, device=device).unsqueeze(1)
    head = log_p[:count]
    heads = stack(rows, device) if rows else None
    p = probabilities(log_p) if heads is not None or rule in (Rule.RATIO, Rule.BLOCK) else None
    measured = distances(p[:count], heads) if heads is not None and p is not None else None
    if rule in (Rule.RATIO, Rule.BLOCK):
        assert p is not None
        own = inverse_cdf(p, _uniforms(noise, Purpose.TARGET, position, count + 1, device))
        acceptance, law = _ratios(rule, head, p[:count], heads, x)
        corrections = inverse_cdf(law, _uniforms(noise, Purpose.CORRECTION, position, count, device))
    else:
        own = target_tokens(rule, log_p, noise, position)
        corrections = own[:count]
        acceptance = (corrections == x.squeeze(1)).to(torch.float64)

    log_p_x = head.gather(-1, x).squeeze(-1)
    max_log_p = log_p.amax(-1)
    least = max_log_p[:count] + math.log(GREEDY_SUPPORT) if rule is Rule.GREEDY else -math.inf
    numbers = BlockNumbers(
        acceptance=acceptance.tolist(),
        corrections=corrections.tolist(),
        target_tokens=own.tolist(),
        log_p=log_p_x.tolist(),
        max_log_p=max_log_p.tolist(),
        target_log_p=log_p.gather(-1, own.unsqueeze(1)).squeeze(-1).tolist(),
        correction_log_p=head.gather(-1, corrections.unsqueeze(1)).squeeze(-1).tolist(),
        entropies=entropy(log_p).tolist(),
        top3_entropies=top3_entropy(log_p).tolist(),
        in_support=(log_p_x.isfinite() & (log_p_x >= least)).tolist(),
    )
    if measured is not None:
        _add_distances(numbers, measured)
    return numbers


def _ratios(rule: Rule, log_p: Tensor, p: Tensor, heads: Heads | None, x: Tensor) -> tuple[Tensor, Tensor]:
    """Acceptance [n] and what corrections are drawn from [n, V], under RATIO and BLOCK.

    log_p, p: [n, V], the second is overwritten; x: [n, 1].
    """
    if heads is None:  # no candidates
        return p.new_zeros(0), p
    matches = (heads.token_ids == x) & (heads.listed > 0)
    if not bool(matches.any(-1).all()):
        raise ValueError(f"candidate {int(matches.any(-1).int().argmin())} is not in its own distribution")
    q_x = (heads.q * matches).sum(-1)
    p_x = p.gather(-1, x).squeeze(-1)
    p_head = p.gather(-1, heads.token_ids)
    if rule is Rule.RATIO:
        acceptance = ratio_acceptance(p_x, q_x)
        weight = torch.ones_like(p_x)
    else:
        weights = block_weights(p_x, q_x)
        weight = weights[:-1]
        listed_p = p_head * heads.listed
        p_rest = (1 - listed_p.sum(-1)).clamp(min=0)
        acceptance = block_acceptance(weights, surplus(listed_p, heads.q * heads.listed, weight, p_rest))
        p *= weight.unsqueeze(-1)
    # In place: p has been drawn from, and a copy costs as much as all the rest.
    law = p.scatter_(-1, heads.token_ids, residual(p_head, heads.q, weight))
    # Nothing is left where w p <= q everywhere. Such a candidate is the first not kept only by rounding (p = q), or
    # when w = 0, and then with probability 0; a draw from p does no harm there [ours].
    empty = law.sum(-1) <= 0
    if bool(empty.any()):
        law[empty] = probabilities(log_p[empty])
    return acceptance, law


def _uniforms(noise: NoiseStream, purpose: Purpose, position: int, count: int, device: torch.device) -> Tensor:
    values = [noise.uniform(purpose, position + i) for i in range(count)]
    return torch.tensor(values, dtype=torch.float64, device=device)


def _add_distances(numbers: BlockNumbers, measured: Distances) -> None:
    numbers.total_variations = measured.total_variation.tolist()
    numbers.distances_lower = measured.lower.tolist()
    numbers.distances_upper = measured.upper.tolist()


def _check(
    rule: Rule, log_p: Tensor, candidates: Sequence[int], rows: Sequence[CompressedRow] | None, greedy: bool | None
) -> None:
    if log_p.dim() != 2 or len(log_p) != len(candidates) + 1:
        raise ValueError(f"{len(candidates)} candidates need {len(candidates) + 1} rows of p, not {len(log_p)}")
    if greedy is not None and greedy != (rule is Rule.GREEDY):
        raise ValueError(f"rule {rule.value} does not go with temperature {'0' if greedy else 'above 0'}")
    outside = [token for token in candidates if not 0 <= token < log_p.shape[1]]
    if outside:
        raise ValueError(f"candidate {outside[0]} is outside the vocabulary of {log_p.shape[1]}")
    if rows is not None and len(rows) != len(candidates):
        raise ValueError(f"{len(rows)} distributions for {len(candidates)} candidates")
    if rule in (Rule.RATIO, Rule.BLOCK):
        if rows is None and candidates:
            raise ValueError(f"rule {rule.value} needs the distribution of every candidate")
        if any(row.tail_mass > 0 for row in rows or ()):
            raise ValueError(f"rule {rule.value} needs distributions without a tail")
