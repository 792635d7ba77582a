"""The lossless accept rules and what all rules share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.acceptance import (
    AdaSd,
    AdaSdKde,
    BlockVerification,
    Coupled,
    Exact,
    FixedDistance,
    RatioTest,
    Source,
    Verification,
)
from tests.rules.positions import CORRECTION, candidate, drafted, law

LOSSLESS = [Exact, RatioTest, BlockVerification, Coupled]
LOSSY = [lambda greedy: FixedDistance(0.3, greedy=greedy), lambda greedy: AdaSd(greedy=greedy)]
LOSSY.append(lambda greedy: AdaSdKde(greedy=greedy))

blocks = st.lists(st.booleans().map(lambda accepted: candidate(accepted=accepted, d=0.2)), max_size=8)


@pytest.mark.parametrize("rule", LOSSLESS)
@given(block=blocks)
def test_at_temperature_0_all_lossless_rules_keep_up_to_the_first_mismatch(rule, block) -> None:
    matches = [position.acceptance == 1 for position in block]
    first = matches.index(False) if False in matches else len(matches)
    judgement = rule(greedy=True).judge(block)
    assert judgement.kept == first
    assert judgement.sources == (Source.MATCHED,) * first
    assert judgement.next_token == (CORRECTION if first < len(block) else None)


@pytest.mark.parametrize("rule", [Exact, BlockVerification])
@pytest.mark.parametrize(
    ("passed", "kept"),
    [([], 0), ([0, 0, 0], 0), ([0, 1, 0], 2), ([1, 0, 0], 1), ([0, 0, 1], 3), ([1, 1, 1], 3)],
)
def test_block_verification_keeps_the_longest_prefix_that_passes(rule, passed, kept) -> None:
    judgement = rule(greedy=False).judge([candidate(accepted=bool(each)) for each in passed])
    assert judgement.kept == kept
    assert judgement.next_token == (CORRECTION if kept < len(passed) else None)


@pytest.mark.parametrize("rule", [RatioTest, Coupled])
def test_ratio_and_coupled_stop_at_the_first_rejection(rule) -> None:
    block = [candidate(accepted=True), candidate(), candidate(accepted=True)]
    assert rule(greedy=False).judge(block).kept == 1


def test_the_exact_test_is_strict_in_u() -> None:
    p, q = (0.5, 0.5), (0.8, 0.2)
    assert RatioTest(greedy=False).judge([drafted(p, q, 0, u=0.624)]).kept == 1
    assert RatioTest(greedy=False).judge([drafted(p, q, 0, u=0.625)]).kept == 0
    assert RatioTest(greedy=False).judge([drafted((0.0, 1.0), q, 0, u=0.0)]).kept == 0


def test_the_ratio_test_has_the_law_p() -> None:
    p, q = (0.1, 0.2, 0.3, 0.4), (0.4, 0.1, 0.5, 0.0)
    assert law(RatioTest(greedy=False), p, q) == pytest.approx(p, abs=1e-12)


@pytest.mark.parametrize(
    ("rule", "sampling"),
    [
        (Exact(greedy=False), Verification.BLOCK),
        (RatioTest(greedy=False), Verification.RATIO),
        (BlockVerification(greedy=False), Verification.BLOCK),
        (Coupled(greedy=False), Verification.COUPLED),
        (FixedDistance(0.2, greedy=False), Verification.RATIO),
        (AdaSd(greedy=False), Verification.RATIO),
        (AdaSdKde(greedy=False), Verification.RATIO),
    ],
)
def test_every_rule_names_the_exact_rule_that_it_stands_on(rule, sampling) -> None:
    assert rule.verification(greedy=False) is sampling
    assert rule.verification(greedy=True) is Verification.GREEDY


@pytest.mark.parametrize("rule", LOSSLESS)
def test_lossless_rules_promise_it_and_charge_nothing(rule) -> None:
    built = rule(greedy=False)
    block = [candidate(accepted=True, d=0.1), candidate(d=0.1)]
    built.record(block, built.judge(block))
    facts = (built.lossy, built.needs_distance, built.charge, built.let_through, built.thresholds())
    assert facts == (False, False, 0.0, 0, {})


def test_a_rule_is_lossy_exactly_if_it_can_change_the_law() -> None:
    for rule in (FixedDistance(0.2, greedy=True), AdaSd(greedy=True), AdaSdKde(greedy=True)):
        assert rule.lossy and rule.needs_distance
    assert not FixedDistance(0.0, greedy=True).lossy
    assert not AdaSd(greedy=True, lossy_budget=0.0).lossy
    assert AdaSdKde(greedy=False, lossy_budget=0.5).lossy


@pytest.mark.parametrize("rule", [*LOSSLESS, *LOSSY])
@pytest.mark.parametrize("greedy", [True, False])
def test_an_empty_block_keeps_nothing_and_leaves_the_bonus(rule, greedy: bool) -> None:
    judgement = rule(greedy=greedy).judge([])
    assert (judgement.kept, judgement.next_token, judgement.undecided) == (0, None, ())


@pytest.mark.parametrize("rule", LOSSY)
def test_candidates_without_a_distance_have_the_exact_test_only(rule) -> None:
    block = [candidate(accepted=True, tv=None), candidate(tv=None)]
    judgement = rule(False).judge(block)
    assert (judgement.kept, judgement.next_token, judgement.samples) == (1, CORRECTION, ())
