"""Stop rules."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.stopping import AdaEdl, AdaSd, Confidence, FixedLength, Limits, RoundOutcome
from orchestrator.stopping.confidence import roc_threshold


def outcome(accepted: int, *entropies: float, cap: int | None = None) -> RoundOutcome:
    drafted = len(entropies)
    return RoundOutcome(
        drafted=drafted,
        accepted=accepted,
        cap=drafted if cap is None else cap,
        entropies=entropies,
        probabilities=tuple(math.exp(-entropy) for entropy in entropies),
        matched=(True,) * accepted + (False,) * (accepted < drafted),
    )


def test_fixed_length_never_changes() -> None:
    rule = FixedLength()
    assert rule.limits() == Limits(max_tokens=5)
    rule.update(outcome(0, 1.0, 2.0))
    assert (rule.limits(), rule.thresholds()) == (Limits(max_tokens=5), {})


def test_adasd_is_capped_short_until_the_first_rejection() -> None:
    rule = AdaSd()
    rule.update(outcome(2, 3.0, 4.0))
    assert rule.limits() == Limits(max_tokens=5)
    assert rule.thresholds() == {}
    rule.update(outcome(0, 1.5))
    assert rule.limits() == Limits(max_tokens=20, max_entropy_after=1.5)
    assert AdaSd(max_tokens=3).limits().max_tokens == 3


def test_adasd_threshold_is_the_mean_entropy_of_first_rejected_tokens_only() -> None:
    rule = AdaSd()
    rule.update(outcome(1, 0.1, 2.0, 9.0))  # the third was never judged
    rule.update(outcome(2, 0.2, 0.3))  # nothing rejected
    rule.update(outcome(0, 1.0, 9.0))
    rule.update(outcome(1, 9.0, 3.0))
    assert rule.thresholds() == {"entropy": pytest.approx(2.0)}


def test_a_round_without_candidates_changes_no_rule() -> None:
    for rule in (AdaSd(), AdaEdl(), Confidence(), FixedLength()):
        before = rule.limits()
        rule.update(outcome(0, cap=5))
        assert rule.limits() == before


def test_adaedl_reproduces_a_hand_computed_round() -> None:
    rule = AdaEdl()
    assert rule.limits() == Limits(max_tokens=20, min_tokens=1, max_entropy_before=pytest.approx(1.25))
    rule.update(outcome(1, 0.1, 0.1, cap=20))  # AR = .5 * .9 + .5 * .5 = .7 < .9: lambda up
    assert rule.thresholds()["lambda"] == pytest.approx(0.501)
    assert rule.limits().max_entropy_before == pytest.approx((1 - 0.501) ** 2 / 0.2)
    for _ in range(3):  # AR = .85, .925, .9625: up once, then down, for fewer than the cap were accepted
        rule.update(outcome(2, 0.1, 0.1, cap=20))
    assert rule.thresholds()["lambda"] == pytest.approx(0.5)
    rule.update(outcome(2, 0.1, 0.1, cap=2))  # the whole cap accepted: as it was
    assert rule.thresholds()["lambda"] == pytest.approx(0.5)


@given(st.floats(0, 1), st.floats(0.05, 1), st.floats(0, 12))
def test_adaedl_ceiling_is_the_published_condition(start: float, gamma: float, entropy: float) -> None:
    ceiling = AdaEdl(initial_lambda=start, gamma=gamma).limits().max_entropy_before
    gap = 1 - math.sqrt(gamma * entropy) - start
    if abs(gap) > 1e-9:
        assert (entropy > ceiling) == (gap < 0)


@given(st.sampled_from([0.0, 1.0]), st.lists(st.integers(0, 5), max_size=40))
def test_adaedl_lambda_stays_in_the_unit_interval(start: float, accepted: list[int]) -> None:
    rule = AdaEdl(initial_lambda=start)
    for number in accepted:
        rule.update(outcome(number, *[1.0] * 5, cap=20))
        assert 0 <= rule.thresholds()["lambda"] <= 1


def test_confidence_waits_for_six_pairs_of_both_classes() -> None:
    rule = Confidence()
    assert rule.limits() == Limits(max_tokens=20, min_probability=0.4)
    rule.update(outcome(6, *[0.1] * 6))
    assert rule.thresholds() == {"probability": 0.4}  # one class only
    rule = Confidence()
    rule.update(outcome(4, 0.1, 0.1, 0.1, 0.1, 1.0, 9.0))
    assert rule.thresholds() == {"probability": 0.4}  # five pairs: the sixth was never judged
    rule.update(outcome(1, 0.2))
    assert rule.thresholds() == {"probability": pytest.approx(math.exp(-0.2))}  # parts the classes


def test_confidence_threshold_reproduces_a_hand_computed_curve() -> None:
    # fpr, tpr, cost from .9: 0, 1/3, 2; from .5: 1/2, 2/3, 1.5; from .2: 1/2, 1, .5; from .1: 1, 1, 1.
    pairs = [(0.9, True), (0.7, False), (0.5, True), (0.2, True), (0.1, False)]
    assert roc_threshold(pairs) == 0.2


@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]), st.booleans()), min_size=2, max_size=30)
)
def test_confidence_threshold_is_the_best_of_all_by_definition(pairs: list[tuple[float, bool]]) -> None:
    good = [score for score, matched in pairs if matched]
    bad = [score for score, matched in pairs if not matched]
    if not good or not bad:
        return

    def cost(threshold: float) -> float:
        false_positive_rate = sum(score >= threshold for score in bad) / len(bad)
        true_positive_rate = sum(score >= threshold for score in good) / len(good)
        return false_positive_rate + 3 * (1 - true_positive_rate)

    best = min(cost(score) for score, _ in pairs)
    chosen = roc_threshold(pairs)
    assert cost(chosen) == pytest.approx(best)
    assert all(cost(score) > best + 1e-12 for score, _ in pairs if score > chosen + 1e-12)


def test_confidence_forgets_pairs_of_long_ago() -> None:
    rule = Confidence()
    rule.update(outcome(5, 0.1, 0.1, 0.1, 0.1, 0.1, 1.0))
    fitted = rule.thresholds()
    for _ in range(200):
        rule.update(outcome(5, *[2.0] * 5))
    assert rule.thresholds()["probability"] == pytest.approx(math.exp(-2.0)) != fitted["probability"]
    for _ in range(200):  # by now the rejected pair of the first round counts no more: one class, no fit
        rule.update(outcome(5, *[3.0] * 5))
    assert rule.thresholds()["probability"] == pytest.approx(math.exp(-2.0))
