"""Stop rules that steer lengths by acceptance, by hand: Draft & Verify, joint confidence, tiers, the bandit, SVIP."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.limits_message import limits_message
from orchestrator.stopping import (
    AdaEdl,
    Bandit,
    DraftVerify,
    EntropyCeiling,
    JointConfidence,
    Limits,
    RoundOutcome,
    Tiers,
)
from tandem.block_limits import Limiter
from tandem.v1 import draft_pb2


def rounds(rule, *outcomes: tuple[int, int], cap: int = 20, entropy: float = 0.5) -> None:
    """Each so many drafted and accepted."""
    for drafted, accepted in outcomes:
        rule.update(
            RoundOutcome(
                drafted=drafted,
                accepted=accepted,
                cap=cap,
                entropies=(entropy,) * drafted,
                probabilities=(0.5,) * drafted,
                matched=(True,) * accepted + (False,) * (accepted < drafted),
            )
        )


def stopped_after(rule, probabilities: list[float], entropies: list[float] | None = None) -> tuple[int, int]:
    """How many candidates of these a draft makes, and which limit ends the block."""
    limits = rule.limits()
    limiter = Limiter(limits_message(limits, limits.max_tokens))
    for index, probability in enumerate(probabilities):
        stop = limiter.after(entropies[index] if entropies else 1.0, math.log(probability))
        if stop is not None:
            return index + 1, stop
    return len(probabilities), draft_pb2.DRAFT_STOP_MAX_TOKENS


# Draft & Verify.


def test_draft_and_verify_by_hand() -> None:
    rule = DraftVerify()
    assert rule.limits() == Limits(max_tokens=12, min_probability=0.8)
    rounds(rule, (5, 4), cap=12)  # AR = .4 < .9: goal .81, th = .9 * .8 + .1 * .81
    assert rule.thresholds()["probability"] == pytest.approx(0.801)
    rounds(rule, (5, 5), (5, 5), cap=12)  # AR = .7, .85: up twice more
    assert rule.thresholds()["probability"] == pytest.approx(0.803)
    rounds(rule, (5, 5), cap=12)  # AR = .925, a block shorter than the cap: down
    assert rule.thresholds()["probability"] == pytest.approx(0.802)
    rounds(rule, (12, 12), cap=12)  # as long as may be: it stays
    assert rule.thresholds()["probability"] == pytest.approx(0.802)


def test_draft_and_verify_asks_whether_the_block_was_full_and_adaedl_whether_all_of_it_was_accepted() -> None:
    """AR = .95 after two rounds of 19 in 20: the block is full, though not all accepted."""
    one, other = DraftVerify(max_tokens=20), AdaEdl(max_tokens=20)
    for rule in (one, other):
        rounds(rule, *[(20, 19)] * 40)
    before = one.thresholds()["probability"], other.thresholds()["lambda"]
    for rule in (one, other):
        rounds(rule, (20, 19))
    assert one.thresholds()["probability"] == before[0]
    assert other.thresholds()["lambda"] == pytest.approx(before[1] - 0.001)


def test_draft_and_verify_keeps_the_token_that_ends_the_block() -> None:
    found = stopped_after(DraftVerify(), [0.9, 0.81, 0.79, 0.9])
    assert found == (3, draft_pb2.DRAFT_STOP_PROBABILITY)
    assert stopped_after(DraftVerify(initial_min_probability=0.0), [0.01] * 4)[0] == 4


@given(st.sampled_from([0.0, 1.0]), st.lists(st.integers(0, 5), max_size=60))
def test_draft_and_verifys_threshold_stays_a_probability(start: float, accepted: list[int]) -> None:
    rule = DraftVerify(initial_min_probability=start)
    for number in accepted:
        rounds(rule, (5, number))
        assert 0 <= rule.thresholds()["probability"] <= 1


# Joint confidence.


def test_joint_confidence_by_hand() -> None:
    """.9 * .85 = .765, then * .9 = .6885: the chance that one of three fails, .3115, exceeds .3."""
    assert stopped_after(JointConfidence(), [0.9, 0.85, 0.9, 0.99]) == (3, draft_pb2.DRAFT_STOP_JOINT_PROBABILITY)
    assert stopped_after(JointConfidence(max_failure=0.32), [0.9, 0.85, 0.9, 0.99])[0] == 4
    assert JointConfidence().limits() == Limits(max_tokens=20, min_joint_probability=pytest.approx(0.7))


# SVIP.


def test_svip_is_the_published_condition() -> None:
    assert EntropyCeiling().limits() == Limits(max_tokens=40, max_entropy_after=0.6)
    for entropy in (0.0, 0.3, 0.59, 0.61, 2.0):
        stops = stopped_after(EntropyCeiling(), [0.5, 0.5], [entropy, 0.0])[0] == 1
        assert stops == (math.sqrt(0.15 * entropy) > 0.3)


# Tiers.


def lengths(rule, *outcomes: tuple[int, int]) -> list[int]:
    """What is asked for after each round."""
    found = []
    for each in outcomes:
        rounds(rule, each)
        found.append(rule.limits().max_tokens)
    return found


def test_tiers_wait_for_fifteen_rounds_and_then_decide_every_fifth() -> None:
    """All three accepted: the average is 3 - .8^15 = 2.965 > 3 - .75 at the first decision."""
    rule = Tiers()
    assert lengths(rule, *[(3, 3)] * 15) == [3] * 14 + [7]
    assert rule.thresholds()["accepted"] == pytest.approx(3 - 0.8**15)
    # Nothing accepted: (3 - .8^15) .8^5 = .9716 > 3 - .5 does not hold: down to 3; and .9716 > 1 - .5: not to 1.
    assert lengths(rule, *[(7, 0)] * 5) == [7] * 4 + [3]
    # .9716 .8^5 = .318 <= .5: down; at 1 it rises from .25, which it exceeds: back to 3, and 3 does not rise.
    assert lengths(rule, *[(3, 0)] * 5) == [3] * 5
    # .318 .8^5 = .104: stays at 1.
    assert lengths(rule, *[(3, 0)] * 5) == [3] * 4 + [1]


def test_tiers_rise_by_two_at_once_and_fall_one_by_one() -> None:
    rule = Tiers()
    lengths(rule, *[(3, 0)] * 15)
    assert rule.limits().max_tokens == 1
    rounds(rule, *[(7, 7)] * 5)
    assert rule.limits().max_tokens == 7
    rounds(rule, *[(7, 0)] * 20)
    assert rule.limits().max_tokens == 1


def test_tiers_do_not_exceed_the_cap() -> None:
    for cap, tiers in ((1, {1}), (2, {1, 2}), (5, {1, 3, 5}), (64, {1, 3, 7})):
        rule = Tiers(max_tokens=cap)
        found = {rule.limits().max_tokens}
        for accepted in (9, 0):
            found |= set(lengths(rule, *[(9, accepted)] * 40))
            found |= {rule.limits().max_tokens}
        assert found <= tiers and min(found) == 1 and max(found) == max(tiers)


# The bandit.


def test_the_bandit_by_hand() -> None:
    """Each arm once; the last yields (4/20 + 4/4) / 2 = .6, the others nothing. With sqrt(2 ln 5) more for each the
    last is the best; after a second round of its own, without yield, its mean is .3 and its bonus sqrt(2 ln 6 / 2) =
    1.339, in all less than sqrt(2 ln 6) = 1.893 of the others: the first of them follows."""
    rule, arms = Bandit(), []
    for accepted in (0, 0, 0, 0, 4, 0, 0):
        arms.append(rule.thresholds()["arm"])
        rounds(rule, (4, accepted))
    assert arms == [0, 1, 2, 3, 4, 4, 0]


def test_the_bandit_is_the_arm_that_it_plays() -> None:
    rule, own = Bandit(), AdaEdl()
    assert rule.limits() == own.limits()
    rounds(rule, (4, 4))
    for _ in range(4):
        rounds(rule, (4, 0))
    assert rule.thresholds()["arm"] == 0
    rounds(own, (4, 4))  # of the five rounds this one only
    assert rule.limits() == own.limits()
    caps = []
    for _ in range(30):
        caps.append(rule.limits().max_tokens)
        rounds(rule, (4, 2))
    assert set(caps) == {5, 20}


def test_the_bandit_comes_to_prefer_what_yields_most_and_goes_on_trying_the_rest() -> None:
    rule, played = Bandit(), [0] * 5
    for _ in range(600):
        arm = int(rule.thresholds()["arm"])
        played[arm] += 1
        rounds(rule, (4, 4 if arm == 2 else 1))
    assert played[2] > 300 and min(played) > 10
    fallen = list(played)
    for _ in range(1200):  # it has become the worst
        arm = int(rule.thresholds()["arm"])
        played[arm] += 1
        rounds(rule, (4, 0 if arm == 2 else 3))
    assert played[2] - fallen[2] < 600


def test_the_bandit_keeps_its_arm_where_a_round_had_no_candidates() -> None:
    rule = Bandit(max_tokens=3)
    rounds(rule, (0, 0))
    assert rule.thresholds()["arm"] == 0 and rule.limits().max_tokens == 3


def test_no_arm_of_the_bandit_exceeds_the_cap() -> None:
    rule = Bandit(max_tokens=3)
    for arm in range(5):
        assert rule.thresholds()["arm"] == arm and rule.limits().max_tokens <= 3
        rounds(rule, (3, 1), cap=3)
