"""Rows cut to their head decide as full rows do: what a bracket leaves open is resolved by the full row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.acceptance import AdaSd, AdaSdKde, Bracket, FixedDistance, Judgement, Position
from orchestrator.acceptance.base import AcceptRule
from tandem.brackets import full_row_distance
from tandem.compression import compress
from tandem.noise import NoiseStream, Purpose
from target_service.verification import Rule, verify
from tests.maths.pairs import KINDS, pair
from tests.rules.positions import teach

SIZE = 60
NEAR, FAR = [0.05, 0.1, 0.15, 0.2, 0.3], [0.35, 0.4, 0.5, 0.6, 0.7]
BUILDERS: dict[str, Callable[..., AcceptRule]] = {
    "jsd": lambda threshold, **options: FixedDistance(threshold, **options),
    "adasd": lambda threshold, **options: _taught(AdaSd(**options), threshold),
    "strict": lambda threshold, **options: _taught(AdaSd(strict=True, **options), threshold),
    "kde": lambda threshold, **options: _taught(AdaSdKde(**options), threshold),
}


def _taught(rule, threshold: float) -> AcceptRule:
    """A rule past its cold start, its groups around the threshold."""
    shift = threshold - 0.335
    accepted, rejected = ([min(1.0, max(0.0, d + shift)) for d in group] for group in (NEAR, FAR))
    teach(rule, accepted=accepted, rejected=rejected)
    return rule


def block(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], k: int, seed: int) -> tuple[list[Position], list]:
    """Positions as the target answers them at temperature 0, and the full rows that the draft keeps."""
    log_p = torch.stack([log_p for log_p, _ in pairs] + [pairs[0][0]])
    candidates = [int(log_q.argmax()) for _, log_q in pairs]
    noise = NoiseStream(seed)
    numbers = verify(Rule.GREEDY, log_p, candidates, [compress(log_q, k) for _, log_q in pairs], noise, 3)
    positions = [
        Position(
            token=token,
            acceptance=numbers.acceptance[index],
            u=noise.uniform(Purpose.ACCEPT, 3 + index),
            v=noise.uniform(Purpose.KDE, 3 + index),
            correction=numbers.corrections[index],
            target_token=numbers.target_tokens[index],
            in_support=numbers.in_support[index],
            distance=Bracket(numbers.distances_lower[index], numbers.distances_upper[index]),
            tv=numbers.total_variations[index],
        )
        for index, token in enumerate(candidates)
    ]
    return positions, [full_row_distance(log_p, log_q.to(torch.float16)) for log_p, log_q in pairs]


def resolved(position: Position, known: tuple[float, float]) -> Position:
    return replace(position, distance=Bracket(known[0], known[0]), tv=known[1])


def judge(rule: AcceptRule, positions: Sequence[Position], full: Sequence[tuple[float, float]]) -> tuple:
    """The judgement with rows asked for where they are needed, and which were."""
    positions, asked = list(positions), []
    judgement: Judgement = rule.judge(positions)
    while judgement.undecided:
        asked += judgement.undecided
        for index in judgement.undecided:
            positions[index] = resolved(positions[index], full[index])
        judgement = rule.judge(positions)
    return (judgement.kept, judgement.sources, judgement.next_token), asked


@pytest.mark.parametrize("name", ["jsd", "adasd", "strict"])
@settings(max_examples=150, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=6),
    k=st.sampled_from([1, 3, 10, 30, SIZE]),
    seed=st.integers(0, 10**6),
    threshold=st.floats(0.05, 0.95),
    greedy=st.booleans(),
    budget=st.sampled_from([None, 0.0, 1.0, 2.0]),
)
def test_rows_cut_to_their_head_decide_as_full_rows_do(name, kinds, k, seed, threshold, greedy, budget) -> None:
    pairs = [pair(kind, seed + index, SIZE) for index, kind in enumerate(kinds)]
    positions, full = block(pairs, k, seed)
    # A budget above temperature 0 is spent by total variations; there rows have no tail.
    rule = BUILDERS[name](threshold, greedy=greedy, lossy_budget=budget if greedy else None)
    wanted = rule.judge([resolved(position, known) for position, known in zip(positions, full, strict=True)])
    found, asked = judge(rule, positions, full)
    assert found == (wanted.kept, wanted.sources, wanted.next_token)
    assert len(asked) == len(set(asked))
    for index in asked:  # only what the bracket leaves open is asked for
        bracket = positions[index].distance
        assert bracket.lower < rule.thresholds()["distance"] <= bracket.upper


def test_the_chance_of_a_density_estimate_decides_as_full_rows_do() -> None:
    # The chance is taken at points of a bracket, so this is no identity; here it must hold all the same.
    asked = decided = 0
    for seed in range(300):
        pairs = [pair(KINDS[(seed + index) % len(KINDS)], seed + index, SIZE) for index in range(4)]
        positions, full = block(pairs, 1 + seed % 30, seed)
        rule = BUILDERS["kde"](0.2 + 0.6 * (seed % 7) / 6, greedy=True)
        wanted = rule.judge([resolved(position, known) for position, known in zip(positions, full, strict=True)])
        found, rows = judge(rule, positions, full)
        assert found == (wanted.kept, wanted.sources, wanted.next_token)
        asked, decided = asked + len(rows), decided + 4
    assert 0 < asked < decided / 2


def test_a_narrow_density_within_a_wide_bracket_is_not_missed() -> None:
    rule = AdaSdKde(greedy=True)
    teach(rule, accepted=[0.474, 0.4745, 0.475, 0.4755, 0.476], rejected=[0.35, 0.4, 0.5, 0.55, 0.6])
    cut = Position(token=7, acceptance=0.0, u=0.5, v=0.6, correction=1, target_token=2, distance=Bracket(0.1, 0.9))
    known = (0.475, 0.3)
    wanted = rule.judge([resolved(cut, known)])
    assert wanted.kept == 1  # P(A|d) = .93
    assert judge(rule, [cut], [known])[0] == (wanted.kept, wanted.sources, wanted.next_token)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_threshold_inside_the_bracket_asks_and_outside_it_does_not(name: str) -> None:
    base = Position(token=7, acceptance=0.0, u=0.5, v=0.5, correction=1, target_token=2, tv=0.3)
    rule = BUILDERS[name](0.5, greedy=True)
    for lower, upper, asks in ((0.1, 0.9, (0,)), (0.05, 0.3, ()), (0.75, 0.9, ())):
        assert rule.judge([replace(base, distance=Bracket(lower, upper))]).undecided == asks


def test_an_open_bracket_decides_both_ways_by_what_the_row_says() -> None:
    base = Position(token=7, acceptance=0.0, u=0.5, correction=1, target_token=2, tv=0.3, distance=Bracket(0.2, 0.6))
    rule = FixedDistance(0.4, greedy=True)
    assert judge(rule, [base], [(0.399, 0.3)])[0][0] == 1
    assert judge(rule, [base], [(0.4, 0.3)])[0][0] == 0
