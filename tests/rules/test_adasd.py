"""AdaSD version 1 and the fixed threshold: decisions, thresholds, guard, brackets."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.acceptance import AdaSd, Bracket, FixedDistance, Source
from tests.rules.positions import CORRECTION, TARGET, candidate, decide, drafted, teach


def published(greedy: bool = False, **options) -> AdaSd:
    """The paper's example: mean accepted 0.15, mean rejected 0.49."""
    rule = AdaSd(greedy=greedy, **options)
    teach(rule, accepted=[0.05, 0.10, 0.15, 0.20, 0.25], rejected=[0.39, 0.44, 0.49, 0.54, 0.59])
    return rule


def test_published_means_give_the_published_threshold() -> None:
    assert published().thresholds() == {"distance": pytest.approx(0.32)}


@pytest.mark.parametrize("greedy", [True, False])
def test_published_threshold_decides_as_computed_by_hand(greedy: bool) -> None:
    rule = published(greedy)
    block = [
        candidate(d=0.31),
        candidate(accepted=True, d=0.9),
        candidate(d=0.33),
        candidate(accepted=True, d=0),
    ]
    judgement = decide(rule, *block)
    assert judgement.kept == 2
    assert judgement.sources == (Source.LET_THROUGH, Source.MATCHED)
    assert judgement.next_token == CORRECTION
    assert rule.let_through == 1
    # accepted: (0.75 + 0.31 + 0.9) / 7, rejected: (2.45 + 0.33) / 6; the fourth was never decided
    assert rule.threshold == pytest.approx((1.96 / 7 + 2.78 / 6) / 2)


def test_a_distance_equal_to_the_threshold_is_not_below_it() -> None:
    rule = AdaSd(greedy=True, min_samples=1)
    teach(rule, accepted=[0.25], rejected=[0.5])
    assert rule.threshold == 0.375
    assert rule.judge([candidate(d=0.375)]).kept == 0
    assert rule.judge([candidate(d=0.374)]).kept == 1
    assert FixedDistance(0.375, greedy=True).judge([candidate(d=0.375)]).kept == 0


def test_until_both_groups_hold_five_samples_the_exact_rule_decides() -> None:
    rule = AdaSd(greedy=False)
    teach(rule, accepted=[0.2] * 9, rejected=[0.6] * 4)
    assert (rule.threshold, rule.thresholds()) == (None, {})
    assert rule.judge([candidate(d=0.01)]).kept == 0
    assert rule.judge([candidate(d=(0.0, 1.0))]).undecided == ()
    assert rule.charge == 0
    teach(rule, rejected=[0.6])
    assert rule.threshold == pytest.approx(0.4)
    assert rule.judge([candidate(d=0.01)]).kept == 1


def test_the_threshold_of_a_block_is_that_before_it() -> None:
    rule = published(greedy=True)
    block = [candidate(accepted=True, d=0.0)] * 9 + [candidate(d=0.3)]
    assert decide(rule, *block).kept == 10
    assert rule.threshold < 0.3


@pytest.mark.parametrize("greedy", [True, False])
def test_the_literal_rule_decides_by_distance_alone(greedy: bool) -> None:
    rule = published(greedy, strict=True)
    near, far = candidate(accepted=True, d=0.1), candidate(accepted=True, d=0.4)
    assert rule.judge([near, candidate(d=0.1)]).sources == (Source.MATCHED, Source.LET_THROUGH)
    judgement = rule.judge([near, far, near])
    assert (judgement.kept, judgement.next_token) == (1, TARGET)


def test_the_literal_rule_waits_for_its_samples_too() -> None:
    rule = AdaSd(greedy=False, strict=True)
    judgement = rule.judge([candidate(accepted=True, d=0.9), candidate(d=0.1)])
    assert (judgement.kept, judgement.next_token) == (1, CORRECTION)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), max_size=8), st.booleans())
def test_threshold_0_accepts_nothing_that_the_exact_test_rejects(fates, greedy: bool) -> None:
    block = [candidate(accepted=accepted, d=d) for accepted, d in fates]
    judgement = FixedDistance(0.0, greedy=greedy).judge(block)
    matches = [accepted for accepted, _ in fates]
    assert judgement.kept == (matches.index(False) if False in matches else len(matches))
    assert Source.LET_THROUGH not in judgement.sources


def test_the_guard_rejects_what_the_target_forbids_however_small_the_distance() -> None:
    p, q = (0.0, 1.0), (0.05, 0.95)
    forbidden = drafted(p, q, 0)
    assert forbidden.distance.midpoint == pytest.approx(0.16, abs=0.002)
    rule = published()
    assert rule.threshold == pytest.approx(0.32)
    assert rule.judge([forbidden]).kept == 0
    assert published(strict=True).judge([forbidden]).kept == 0
    assert FixedDistance(0.32, greedy=False).judge([forbidden]).kept == 0
    assert rule.judge([replace(forbidden, in_support=True)]).kept == 1  # it is the guard that rejects


def test_rejections_by_the_guard_enter_no_group() -> None:
    for strict in (False, True):
        rule = published(strict=strict)
        before = rule.threshold
        decide(rule, candidate(d=0.1, in_support=False))
        assert rule.threshold == before


@pytest.mark.parametrize("greedy", [True, False])
def test_end_tokens_have_the_exact_test_only(greedy: bool) -> None:
    for rule in (published(greedy), FixedDistance(0.32, greedy=greedy), published(greedy, strict=True)):
        end = candidate(d=0.01, exact_only=True)
        assert (rule.judge([end]).kept, rule.judge([end]).next_token) == (0, CORRECTION)
        assert rule.judge([candidate(d=0.01, accepted=True, exact_only=True)]).kept == 1


def test_nothing_is_let_through_or_charged_after_the_end() -> None:
    rule = published()
    charge, threshold = rule.charge, published()
    end = candidate(accepted=True, d=0.9, exact_only=True)
    decide(rule, end, candidate(d=0.01), candidate(d=0.01))
    decide(threshold, end)
    assert (rule.let_through, rule.charge) == (0, charge)
    assert rule.threshold == threshold.threshold


def test_each_decided_position_records_the_midpoint_of_its_bracket() -> None:
    rule = AdaSd(greedy=True, min_samples=1)
    teach(rule, accepted=[0.1], rejected=[0.5])
    decide(rule, candidate(accepted=True, d=(0.1, 0.9)), candidate(d=(0.6, 0.8)))
    assert rule.threshold == pytest.approx(((0.1 + 0.5) / 2 + (0.5 + 0.7) / 2) / 2)


def test_only_positions_whose_outcome_turns_on_the_distance_are_undecided() -> None:
    rule = published(greedy=True)
    open_ = candidate(d=(0.2, 0.4))
    assert rule.judge([open_]).undecided == (0,)
    for settled in (
        candidate(accepted=True, d=(0.2, 0.4)),
        candidate(d=(0.1, 0.3)),
        candidate(d=(0.33, 0.4)),
        candidate(d=(0.2, 0.4), in_support=False),
        candidate(d=(0.2, 0.4), exact_only=True),
    ):
        assert rule.judge([settled]).undecided == ()
    assert published(greedy=True, strict=True).judge([candidate(accepted=True, d=(0.2, 0.4))]).undecided == (
        0,
    )


def test_all_undecided_positions_up_to_a_sure_rejection_are_asked_for_at_once() -> None:
    rule = published(greedy=True)
    open_, sure, lost = candidate(d=(0.2, 0.4)), candidate(accepted=True, d=0.1), candidate(d=0.9)
    judgement = rule.judge([sure, open_, sure, open_, lost, open_])
    assert judgement.undecided == (1, 3)
    assert judgement.kept == 0


# accepted by the exact test, true distance, how far the bracket reaches below and above, in support, v
bracketed = st.tuples(
    st.booleans(), st.floats(0, 1), st.floats(0, 0.2), st.floats(0, 0.2), st.booleans(), st.floats(0, 0.99)
)


@given(
    st.lists(bracketed, max_size=8),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 0.0, 0.3, 2.0]),
)
def test_brackets_decide_as_full_rows_do(fates, greedy: bool, strict: bool, budget: float | None) -> None:
    rule = published(greedy, strict=strict, lossy_budget=budget)
    full, cut = [], []
    for accepted, d, below, above, in_support, v in fates:
        full.append(candidate(accepted=accepted, d=d, in_support=in_support, v=v))
        cut.append(
            candidate(accepted=accepted, d=(max(0, d - below), min(1, d + above)), in_support=in_support, v=v)
        )
    judgement = rule.judge(cut)
    for _ in range(len(fates)):
        for index in judgement.undecided:
            cut[index] = replace(cut[index], distance=Bracket(*[full[index].distance.midpoint] * 2))
        judgement = rule.judge(cut)
    wanted = rule.judge(full)
    assert judgement.undecided == ()
    assert (judgement.kept, judgement.sources, judgement.next_token) == (
        wanted.kept,
        wanted.sources,
        wanted.next_token,
    )
