"""Candidates for the rules' tests, made from numbers or from a pair of distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.acceptance import Bracket, Position, TargetNumbers

CORRECTION, TARGET = 1001, 1002


def candidate(
    *,
    accepted: bool = False,
    d: float | tuple[float, float] | None = None,
    tv: float | None = 0.1,
    in_support: bool = True,
    exact_only: bool = False,
    v: float = 0.5,
    target: TargetNumbers | None = None,
) -> Position:
    """A candidate that the exact test accepts or not, at distance `d` or with the bracket `d`."""
    ends = d if isinstance(d, tuple) else (d, d)
    return Position(
        token=7,
        acceptance=float(accepted),
        u=0.5,
        correction=CORRECTION,
        target_token=TARGET,
        in_support=in_support or accepted,
        distance=None if d is None else Bracket(ends[0], ends[1]),
        tv=tv,
        exact_only=exact_only,
        v=v,
        target=target,
    )


def teach(rule, *, accepted: Sequence[float] = (), rejected: Sequence[float] = ()) -> None:
    """Brings distances into the groups of a rule in its cold start, by rounds of one candidate."""
    for is_accepted, distances in ((True, accepted), (False, rejected)):
        for distance in distances:
            decide(rule, candidate(accepted=is_accepted, d=distance))


def decide(rule, *block: Position):
    """Judges a block with no open bracket, records it and gives the judgement."""
    judgement = rule.judge(block)
    assert not judgement.undecided
    rule.record(block, judgement)
    return judgement


def total_variation(p: Sequence[float], q: Sequence[float]) -> float:
    return sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2


def distance(p: Sequence[float], q: Sequence[float]) -> float:
    """Jensen-Shannon distance, base 2."""

    def half(a: float, b: float) -> float:
        return a * math.log2(2 * a / (a + b)) / 2 if a > 0 else 0.0

    divergence = sum(half(a, b) + half(b, a) for a, b in zip(p, q, strict=True))
    return math.sqrt(min(1.0, max(0.0, divergence)))


def entropy(p: Sequence[float]) -> float:
    return -math.fsum(mass * math.log(mass) for mass in p if mass > 0)


def numbers(p: Sequence[float], token: int) -> TargetNumbers:
    """What the target says of `token`, from the formulas."""
    likeliest = sorted(p, reverse=True)[:3]
    return TargetNumbers(
        log_p=math.log(p[token]) if p[token] > 0 else -math.inf,
        max_log_p=math.log(likeliest[0]),
        entropy=entropy(p),
        top3_entropy=entropy([mass / sum(likeliest) for mass in likeliest]),
    )


def drafted(p: Sequence[float], q: Sequence[float], token: int, **changes) -> Position:
    """What a target under the ratio test says of `token`, with u = v = 0."""
    d = distance(p, q)
    position = Position(
        token=token,
        acceptance=min(1.0, p[token] / q[token]),
        u=0.0,
        correction=CORRECTION,
        target_token=TARGET,
        in_support=p[token] > 0,
        distance=Bracket(d, d),
        tv=total_variation(p, q),
        target=numbers(p, token),
    )
    return replace(position, **changes)


def law(rule, p: Sequence[float], q: Sequence[float], *, end_token: int | None = None) -> list[float]:
    """The exact law of the token emitted at a position, by enumeration over x, u and v.

    A verdict changes along u only at the acceptance and at no more than one place behind it, and along v only at the
    chance of letting through, both found by bisection; corrections are spread over the residual, the target's own
    token over p.
    """
    residual = [max(a - b, 0.0) for a, b in zip(p, q, strict=True)]
    left = sum(residual)
    residual = [mass / left for mass in residual] if left > 0 else residual
    emitted = [0.0] * len(p)
    for token, chance in enumerate(q):
        if chance == 0:
            continue
        position = drafted(p, q, token, exact_only=token == end_token)
        for u, weight_u in _parts_of_u(rule, position):
            cut = _cut(rule, replace(position, u=u))
            for v, weight_v in ((cut / 2, cut), ((1 + cut) / 2, 1 - cut)):
                weight = chance * weight_u * weight_v
                if weight == 0:
                    continue
                follows = rule.judge([replace(position, u=u, v=v)]).next_token
                spread = {None: None, CORRECTION: residual, TARGET: p}[follows]
                if spread is None:
                    emitted[token] += weight
                else:
                    emitted = [mass + weight * share for mass, share in zip(emitted, spread, strict=True)]
    return emitted


def _parts_of_u(rule, position: Position) -> list[tuple[float, float]]:
    """A u of each part of [0, 1) in which the verdict is one, and the part's length."""
    start = position.acceptance
    parts = [(start / 2, start)] if start > 0 else []
    if start >= 1:
        return parts

    def kept(u: float) -> int:
        return rule.judge([replace(position, u=u, v=0.0)]).kept

    low, high = start, 1 - 2**-53
    if kept(low) == kept(high):
        return [*parts, ((start + 1) / 2, 1 - start)]
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle) else (low, middle)
    return [*parts, ((start + low) / 2, low - start), ((low + 1) / 2, 1 - low)]


def _cut(rule, position: Position) -> float:
    """The v below which the candidate is kept, to 2**-40; 1 where v does not matter."""
    kept = [rule.judge([replace(position, v=v)]).kept for v in (0.0, 1 - 2**-53)]
    if kept[0] == kept[1]:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if rule.judge([replace(position, v=middle)]).kept else (low, middle)
    return low
