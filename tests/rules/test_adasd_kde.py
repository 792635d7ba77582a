"""AdaSD version 2: acceptance by kernel density estimates."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.acceptance import AdaSdKde, Source
from orchestrator.acceptance.density import Density
from tests.rules.positions import candidate, decide, teach

ACCEPTED = [0.05, 0.10, 0.15, 0.20, 0.25, 0.15]
REJECTED = [0.39, 0.44, 0.49, 0.54, 0.59]


def taught(**options) -> AdaSdKde:
    rule = AdaSdKde(**{"greedy": True, **options})
    teach(rule, accepted=ACCEPTED, rejected=REJECTED)
    return rule


def normal_mixture(samples: list[float], value: float) -> float:
    bandwidth = (4 / (3 * len(samples))) ** 0.2 * statistics.stdev(samples)
    return statistics.fmean(statistics.NormalDist(sample, bandwidth).pdf(value) for sample in samples)


@pytest.mark.parametrize("d", [0.05, 0.2, 0.3, 0.32, 0.35, 0.5])
def test_posterior_is_bayes_over_gaussian_mixtures_with_empirical_priors(d: float) -> None:
    accepted = normal_mixture(ACCEPTED, d) * 6 / 11
    rejected = normal_mixture(REJECTED, d) * 5 / 11
    assert taught().probability(d) == pytest.approx(accepted / (accepted + rejected), rel=1e-9)


def test_posterior_reproduces_a_hand_computed_value() -> None:
    rule = AdaSdKde(greedy=True, min_samples=2)
    teach(rule, accepted=[0.15, 0.25], rejected=[0.55, 0.65])
    # s = .0707107, h = (4/6)^.2 s = .0652036; at .40 the mixtures mirror each other; at .35 the exponents are
    # -(.20/h)^2/2 = -4.7042, -(.10/h)^2/2 = -1.1760 against -4.7042 and -(.30/h)^2/2 = -10.5844.
    assert rule.probability(0.4) == pytest.approx(0.5)
    near, far = math.exp(-1.1760) + math.exp(-4.7042), math.exp(-4.7042) + math.exp(-10.5844)
    assert rule.probability(0.35) == pytest.approx(near / (near + far), abs=1e-4)


def test_a_candidate_is_let_through_iff_v_is_below_the_posterior() -> None:
    rule = taught()
    chance = rule.probability(0.33)
    assert 0.01 < chance < 0.99
    assert rule.judge([candidate(d=0.33, v=chance - 1e-9)]).sources == (Source.LET_THROUGH,)
    assert rule.judge([candidate(d=0.33, v=chance)]).kept == 0


def test_identical_distributions_accept_and_disjoint_ones_reject() -> None:
    rule = taught()
    assert (rule.probability(0.0), rule.probability(1.0)) == (1.0, 0.0)
    assert rule.judge([candidate(d=0.0, v=0.999999)]).kept == 1
    assert rule.judge([candidate(d=1.0, v=0.0)]).kept == 0


def test_samples_of_exactly_0_or_1_are_left_out() -> None:
    rule = AdaSdKde(greedy=True)
    teach(rule, accepted=[0.0] * 9, rejected=[1.0] * 9)
    assert rule.judge([candidate(d=0.1, v=0.0)]).kept == 0  # still cold
    teach(rule, accepted=ACCEPTED, rejected=REJECTED)
    assert rule.probability(0.3) == taught().probability(0.3)


def test_until_both_groups_hold_five_samples_the_exact_rule_decides() -> None:
    rule = AdaSdKde(greedy=True)
    teach(rule, accepted=ACCEPTED, rejected=REJECTED[:4])
    assert rule.judge([candidate(d=0.05, v=0.0)]).kept == 0
    teach(rule, rejected=REJECTED[4:])
    assert rule.judge([candidate(d=0.05, v=0.0)]).kept == 1


@given(
    st.lists(st.floats(0.001, 0.999), min_size=5, max_size=12),
    st.lists(st.floats(0.001, 0.999), min_size=5, max_size=12),
    st.floats(0, 1),
)
def test_posterior_is_a_probability_even_far_from_all_samples(accepted, rejected, d: float) -> None:
    rule = AdaSdKde(greedy=True)
    teach(rule, accepted=accepted, rejected=rejected)
    assert 0 <= rule.probability(d) <= 1


def test_samples_that_coincide_still_give_a_density() -> None:
    density = Density()
    for _ in range(10):
        density.add(0.2)
    assert density.log_density(0.2) == pytest.approx(math.log(1 / (0.01 * math.sqrt(2 * math.pi))))
    assert math.isfinite(density.log_density(0.999))


def test_densities_follow_the_latest_samples_only() -> None:
    density, fresh = Density(), Density()
    for _ in range(50):
        density.add(0.9)
    for index in range(256):
        for each in (density, fresh):
            each.add(0.1 + index / 2560)
    assert density.log_density(0.15) == fresh.log_density(0.15)
    assert density.count == 306


def test_a_bracket_over_which_the_decision_changes_is_undecided() -> None:
    rule = taught()
    assert rule.judge([candidate(d=(0.1, 0.5), v=0.5)]).undecided == (0,)
    assert rule.judge([candidate(d=(0.05, 0.2), v=0.5)]).undecided == ()
    assert rule.judge([candidate(d=(0.45, 0.55), v=0.5)]).undecided == ()
    # the ends agree, the middle does not
    rule = AdaSdKde(greedy=True)
    teach(rule, accepted=[0.1, 0.11, 0.12, 0.9, 0.91, 0.92], rejected=[0.49, 0.5, 0.51, 0.5, 0.5])
    ends = [rule.probability(0.11), rule.probability(0.91)]
    assert min(ends) > 0.5 > rule.probability(0.51)
    assert rule.judge([candidate(d=(0.11, 0.91), v=0.5)]).undecided == (0,)


def test_the_guard_stands_before_the_posterior() -> None:
    rule = taught()
    before = rule.probability(0.3)
    assert decide(rule, candidate(d=0.05, v=0.0, in_support=False)).kept == 0
    assert decide(rule, candidate(d=0.0, v=0.0, exact_only=True)).kept == 0
    assert rule.probability(0.3) == before
