"""Lossy rules that look at the target's own numbers: their formulas by hand, their laws by enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.acceptance import Consultant, Fly, RatioTest, Source, TargetNumbers, Tolerance, Typical, Verification
from tests.rules.positions import CORRECTION, candidate, decide, drafted, law, numbers, total_variation

SURE = TargetNumbers(log_p=-4.0, max_log_p=-0.01, entropy=0.05, top3_entropy=0.05)
UNSURE = TargetNumbers(log_p=-1.2, max_log_p=-0.7, entropy=1.2, top3_entropy=1.0)
RULES = [Fly, Consultant, Typical, Tolerance]
FROM_ONE_POSITION = [Consultant, Typical, Tolerance]

weights = st.lists(st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0, 3.0]), min_size=4, max_size=4).filter(any)
laws = weights.map(lambda each: [weight / sum(each) for weight in each])


def surprised(nats: float, **options):
    """A candidate that the exact test rejects, with that -log p(x)."""
    return candidate(target=TargetNumbers(-nats, -0.1, 1.0, 1.0), **options)


def block(passed: str, target: TargetNumbers = UNSURE):
    """A candidate for each letter: `x` fails the exact test."""
    return [candidate(accepted=letter != "x", target=target) for letter in passed]


# FLy.


@pytest.mark.parametrize(
    ("passed", "kept", "let_through"),
    [
        (".x.....", 7, 1),  # five that pass behind the mismatch
        (".x....", 1, 0),  # four only: no full window
        (".x....x", 1, 0),  # the fifth fails
        ("x.....x.....", 12, 2),
        ("x.....x....", 6, 1),
        ("xx.....", 0, 0),  # the first one's window begins with a mismatch
        (".......", 7, 0),
    ],
)
@pytest.mark.parametrize("greedy", [True, False])
def test_fly_forgives_a_mismatch_before_a_full_window(passed: str, kept: int, let_through: int, greedy: bool) -> None:
    rule = Fly(greedy=greedy)
    judgement = decide(rule, *block(passed))
    assert (judgement.kept, rule.let_through) == (kept, let_through)
    assert judgement.next_token == (None if kept == len(passed) else CORRECTION)
    sources = [Source.LET_THROUGH if letter == "x" else Source.MATCHED for letter in passed[:kept]]
    assert list(judgement.sources) == sources


def test_fly_forgives_nothing_where_the_target_is_sure() -> None:
    """The three likeliest of (.9, .06, .03, .01), taken to add up to 1: .363 nats; of (.92, .05, .02, .01): .298."""
    gate = [numbers(p, 1) for p in ((0.9, 0.06, 0.03, 0.01), (0.92, 0.05, 0.02, 0.01))]
    assert [round(each.top3_entropy, 3) for each in gate] == [0.363, 0.298]
    assert [Fly(greedy=True).judge(block("x.....", each)).kept for each in gate] == [6, 0]
    assert Fly(greedy=True, min_entropy=0.37).judge(block("x.....", gate[0])).kept == 0
    assert Fly(greedy=True, min_entropy=0.0).judge(block("x.....", SURE)).kept == 6


def test_flys_window_is_its_option() -> None:
    assert [Fly(greedy=True, window=window).judge(block("x..")).kept for window in (1, 2, 3)] == [3, 3, 0]


# Consultant Decoding.


def test_consultant_decoding_by_hand() -> None:
    """r = .8, then .2 * .8 + .8 * 2 = 1.76, then .2 * 1.76 + .8 * 2.2 = 2.112 > 2."""
    rule = Consultant(greedy=False)
    assert rule.judge([surprised(1.0), surprised(2.0), surprised(2.2)]).kept == 2
    # With 2.05 the last is .2 * 1.76 + .8 * 2.05 = 1.992.
    assert rule.judge([surprised(1.0), surprised(2.0), surprised(2.05)]).kept == 3
    assert rule.judge([surprised(2.5)]).kept == 1 and rule.judge([surprised(2.51)]).kept == 0


def test_consultant_decoding_begins_each_block_anew_and_counts_accepted_candidates() -> None:
    rule = Consultant(greedy=False)
    for _ in range(3):
        assert decide(rule, surprised(2.4)).kept == 1  # r = 1.92
    accepted = candidate(accepted=True, target=TargetNumbers(-9.0, -0.1, 1.0, 1.0))  # r = 7.2: not asked
    assert rule.judge([accepted, surprised(0.6)]).kept == 2  # r = 1.44 + .48
    assert rule.judge([accepted, surprised(0.8)]).kept == 1  # r = 1.44 + .64


def test_consultants_options() -> None:
    assert Consultant(greedy=False, max_surprisal=1.0).judge([surprised(1.3)]).kept == 0
    assert Consultant(greedy=False, max_surprisal=1.0, weight=0.5).judge([surprised(1.3)]).kept == 1
    last = [surprised(0.0), surprised(2.1)]
    assert Consultant(greedy=False, weight=1.0).judge(last).kept == 1 < Consultant(greedy=False).judge(last).kept


# Typical acceptance.


@pytest.mark.parametrize(
    ("entropy", "probability", "kept"),
    [
        (math.log(2), 0.091, 1),  # .3 / 2 = .15 is more than .09, which decides
        (math.log(2), 0.089, 0),
        (2.0, 0.0407, 1),  # .3 exp(-2) = .0406
        (2.0, 0.0405, 0),
    ],
)
def test_typical_acceptance_by_hand(entropy: float, probability: float, kept: int) -> None:
    one = candidate(target=TargetNumbers(math.log(probability), -0.5, entropy, 1.0))
    assert [Typical(greedy=greedy).judge([one]).kept for greedy in (False, True)] == [kept, kept]


def test_typicals_options() -> None:
    one = candidate(target=TargetNumbers(math.log(0.05), -0.5, 1.0, 1.0))
    assert Typical(greedy=True).judge([one]).kept == 0
    assert Typical(greedy=True, epsilon=0.04).judge([one]).kept == 1
    assert Typical(greedy=True, delta=0.1).judge([one]).kept == 1  # .1 exp(-1) = .037


# Tolerance.


def test_tolerance_by_hand() -> None:
    """max p = .4: tau = .3 * .6 = .18 on top of p/q = .5 / .8 ... of (.1, .4, .3, .2) and q = (.2, .3, .3, .2): .5."""
    p, q = (0.1, 0.4, 0.3, 0.2), (0.2, 0.3, 0.3, 0.2)
    rule = Tolerance(greedy=False)
    kept = {u: rule.judge([drafted(p, q, 0, u=u)]).sources for u in (0.49, 0.5, 0.67, 0.69, 0.99)}
    through = (Source.LET_THROUGH,)
    assert kept == {0.49: (Source.MATCHED,), 0.5: through, 0.67: through, 0.69: (), 0.99: ()}
    assert Tolerance(greedy=False, tolerance=0.9).judge([drafted(p, q, 0, u=0.99)]).kept == 1  # .5 + .54
    assert Tolerance(greedy=False, tolerance=0.0).judge([drafted(p, q, 0, u=0.51)]).kept == 0


def test_the_law_under_a_tolerance_by_hand() -> None:
    """q has .1 too much at 0; min(tau q, q - p) = .18 * .2 = .036 of it stays, the rest goes to 1."""
    p, q = (0.1, 0.4, 0.3, 0.2), (0.2, 0.3, 0.3, 0.2)
    rule = Tolerance(greedy=False)
    assert law(rule, p, q) == pytest.approx((0.136, 0.364, 0.3, 0.2), abs=1e-9)
    assert decide(rule, drafted(p, q, 1)).charges == (pytest.approx(0.1),)  # min(.18, TV = .1)


def test_a_tolerance_is_the_greedy_match_at_temperature_0() -> None:
    rule = Tolerance(greedy=True, tolerance=1.0)
    assert not rule.lossy and decide(rule, candidate(target=UNSURE)).kept == rule.charge == 0
    assert not Tolerance(greedy=False, tolerance=0.0).lossy and Tolerance(greedy=False).lossy


# What all of them promise.


@pytest.mark.parametrize("kind", RULES)
def test_they_stand_on_the_ratio_test_or_the_match_and_need_no_distance(kind) -> None:
    assert kind(greedy=False).verification(False) is Verification.RATIO
    assert kind(greedy=True).verification(True) is Verification.GREEDY
    assert not kind(greedy=False).needs_distance and kind(greedy=False).lossy
    assert not kind(greedy=False, lossy_budget=0.0).lossy


@pytest.mark.parametrize("kind", [Fly, Consultant, Typical])
@pytest.mark.parametrize("guard", [{"in_support": False}, {"exact_only": True}])
def test_guarded_candidates_have_the_exact_test_only(kind, guard: dict[str, bool]) -> None:
    rest = [candidate(accepted=True, target=UNSURE)] * 5
    near = TargetNumbers(log_p=-0.9, max_log_p=-0.8, entropy=1.3, top3_entropy=1.0)
    for greedy in (True, False):
        assert kind(greedy=greedy).judge([candidate(target=near), *rest]).kept == 6
        assert kind(greedy=greedy).judge([candidate(target=near, **guard), *rest]).kept == 0


def test_a_tolerance_lets_no_guarded_candidate_through() -> None:
    p, q = (0.1, 0.4, 0.3, 0.2), (0.2, 0.3, 0.3, 0.2)
    for changes in ({"in_support": False}, {"exact_only": True}, {"acceptance": 0.0, "u": 0.0}):
        rule = Tolerance(greedy=False, tolerance=1.0)
        assert rule.judge([drafted(p, q, 0, **{"u": 0.6, **changes})]).kept == 0


@pytest.mark.parametrize("kind", RULES)
def test_after_an_end_token_nothing_is_let_through_or_charged(kind) -> None:
    rule = kind(greedy=False)
    ended = [candidate(accepted=True, exact_only=True, tv=0.0, target=UNSURE), *block("x.....")]
    judgement = decide(rule, *ended)
    assert judgement.kept == 1 and rule.charge == rule.let_through == 0


@pytest.mark.parametrize("kind", FROM_ONE_POSITION)
@given(p=laws, q=laws, end_token=st.sampled_from([None, 0]))
def test_law_of_a_position_is_no_farther_from_p_than_charged(kind, p, q, end_token) -> None:
    rule = kind(greedy=False)
    emitted = law(rule, p, q, end_token=end_token)
    assert sum(emitted) == pytest.approx(1)
    assert all(mass == 0 for mass, allowed in zip(emitted, p, strict=True) if allowed == 0)
    charges = {
        rule.judge([drafted(p, q, token, u=u, exact_only=token == end_token)]).charges
        for token in range(4)
        if q[token] > 0
        for u in (0.0, 1 - 2**-53)
    }
    assert len(charges) == 1  # nothing of the candidate's own fate
    assert total_variation(emitted, p) <= charges.pop()[0] + 1e-9


@pytest.mark.parametrize("kind", FROM_ONE_POSITION)
@given(p=laws, q=laws)
def test_law_with_budget_0_is_p(kind, p, q) -> None:
    assert law(kind(greedy=False, lossy_budget=0.0), p, q) == pytest.approx(p, abs=1e-9)


@pytest.mark.parametrize("kind", FROM_ONE_POSITION)
def test_the_law_does_change(kind) -> None:
    """Otherwise the two tests above would show nothing."""
    p, q = (0.35, 0.25, 0.25, 0.15), (0.15, 0.2, 0.25, 0.4)
    assert total_variation(law(kind(greedy=False), p, q), p) > 0.01


def test_typical_and_consultant_charge_nothing_where_no_token_would_pass() -> None:
    flat = [1 / 40] * 40
    q = [2 / 40] * 20 + [0.0] * 20
    for rule in (Consultant(greedy=False), Typical(greedy=False, epsilon=0.09, delta=4.0)):
        assert decide(rule, drafted(flat, q, 0, u=0.9)).charges == (0.0,)
    assert decide(Typical(greedy=False), drafted(flat, q, 0, u=0.9)).charges == (pytest.approx(0.5),)


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("budget", [0.0, 0.25, 1.0, 2.0])
@given(passed=st.lists(st.text("x.", min_size=1, max_size=9), max_size=8), greedy=st.booleans(), tv=st.floats(0, 1))
def test_the_budget_is_never_overdrawn(kind, budget: float, passed: list[str], greedy: bool, tv: float) -> None:
    rule, exact = kind(greedy=greedy, lossy_budget=budget), RatioTest(greedy=greedy)
    for each in passed:
        positions = [candidate(accepted=letter != "x", tv=tv, target=UNSURE) for letter in each]
        judged = rule.judge(positions)
        assert rule.judge(positions) == judged and not judged.undecided
        assert judged.kept >= exact.judge(positions).kept
        if budget == 0 and tv > 0:
            assert judged.kept == exact.judge(positions).kept and not rule.let_through
        rule.record(positions, judged)
        assert rule.charge <= budget
    if greedy:
        assert rule.charge == rule.let_through


# FLy decides by what follows: its law is that of a pair.


def joint_law(rule: Fly, first: tuple, second: Sequence[tuple]) -> tuple[dict[tuple[int, int], float], float]:
    """The law of two tokens, a block of two candidates and what the target adds; and what is charged on average.

    first: p and q of the first; second: by the first token.
    """
    found: dict[tuple[int, int], float] = dict.fromkeys(itertools.product(range(3), repeat=2), 0.0)
    charged = 0.0
    p, q = first
    for one, other in itertools.product(range(3), repeat=2):
        p_2, q_2 = second[one]
        positions = [drafted(p, q, one), drafted(p_2, q_2, other)]
        for passes in itertools.product((True, False), repeat=2):
            chance = q[one] * q_2[other]
            us = []
            for position, passed in zip(positions, passes, strict=True):
                chance *= position.acceptance if passed else 1 - position.acceptance
                us.append(position.acceptance / 2 if passed else (1 + position.acceptance) / 2)
            if chance == 0:
                continue
            judged = rule.judge([drafted(p, q, one, u=us[0]), drafted(p_2, q_2, other, u=us[1])])
            charged += chance * sum(judged.charges)
            if judged.kept == 2:
                found[one, other] += chance
            elif judged.kept == 1:
                for token, share in enumerate(residual(p_2, q_2)):
                    found[one, token] += chance * share
            else:
                for token, share in enumerate(residual(p, q)):
                    for after, mass in enumerate(second[token][0]):
                        found[token, after] += chance * share * mass
    return found, charged


def residual(p: Sequence[float], q: Sequence[float]) -> list[float]:
    left = [max(a - b, 0.0) for a, b in zip(p, q, strict=True)]
    return [mass / sum(left) for mass in left]


def test_fly_changes_the_law_of_a_text_by_no_more_than_it_charges() -> None:
    first = (0.6, 0.3, 0.1), (0.2, 0.3, 0.5)
    second = [
        ((0.2, 0.3, 0.5), (0.3, 0.3, 0.4)),
        ((0.7, 0.2, 0.1), (0.1, 0.2, 0.7)),
        ((0.4, 0.4, 0.2), (0.4, 0.1, 0.5)),
    ]
    own = {(one, two): first[0][one] * second[one][0][two] for one, two in itertools.product(range(3), repeat=2)}

    def away(rule: Fly) -> tuple[float, float]:
        found, charged = joint_law(rule, first, second)
        assert sum(found.values()) == pytest.approx(1)
        return sum(abs(found[pair] - own[pair]) for pair in own) / 2, charged

    exact, nothing = away(Fly(greedy=False, window=1, lossy_budget=0.0))
    assert exact == pytest.approx(0, abs=1e-12) and nothing == 0
    change, charged = away(Fly(greedy=False, window=1))
    assert 0.05 < change <= charged
    closed, uncharged = away(Fly(greedy=False, window=1, min_entropy=1.2))  # log 3 = 1.099 is the most
    assert closed == pytest.approx(0, abs=1e-12) and uncharged == 0
