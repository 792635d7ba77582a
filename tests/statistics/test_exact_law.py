"""The exact rules emit the target's law: an identity in float64, checked by enumeration."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from target_service.rules import ratio_acceptance, residual
from target_service.verification import Rule
from tests.statistics.exact import EXACT, Verifier, emitted_law, error, kept_chances
from tests.statistics.pairs import Pair, equal_pair, pairs, random_pair
from tests.statistics.trees import LIMITS, Drafting, Limits, leaves

RULES = [Rule.RATIO, Rule.BLOCK]
PAIRS = pairs(4)


@functools.cache
def verifier(rule: Rule, name: str) -> Verifier:
    """One for all limits: what a block's verification gives does not depend on them."""
    return Verifier(rule, PAIRS[name])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("limits", LIMITS)
def test_the_joint_law_of_three_tokens_is_the_targets(rule: Rule, name: str, limits: str) -> None:
    assert error(rule, Drafting(PAIRS[name], LIMITS[limits]), check=verifier(rule, name)) < EXACT


@pytest.mark.parametrize("limits", sorted(set(LIMITS) - {"none", "fixed 1", "fixed 2", "fixed 3"}))
def test_limits_make_blocks_of_several_lengths(limits: str) -> None:
    """Otherwise the tests above would say little of them."""
    drafting = Drafting(PAIRS["plain"], LIMITS[limits])
    assert len({len(block) for start in range(4) for block, _ in leaves(drafting.tree(start), drafting.pair)}) > 1


@pytest.mark.parametrize("rule", RULES)
def test_a_token_that_ends_drafting_changes_no_law(rule: Rule) -> None:
    assert error(rule, Drafting(PAIRS["plain"], LIMITS["fixed 3"], end_token=1)) < EXACT


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.3, 1.0, 4.0]),
    noise=st.sampled_from([0.0, 0.3, 3.0]),
    k=st.sampled_from([1, 2, 3]),
    top_p=st.sampled_from([1.0, 0.9, 0.6]),
    limits=st.sampled_from(sorted(LIMITS)),
)
def test_the_joint_law_of_any_pair_is_the_targets(rule, seed, scale, noise, k, top_p, limits) -> None:
    sampling = {"top_p": top_p}
    pair = random_pair(
        3, seed, scale=scale, noise=noise, max_entries=k, p_sampling=sampling, q_sampling={"top_p": (1 + top_p) / 2}
    )
    assert error(rule, Drafting(pair, LIMITS[limits])) < EXACT


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([2, 9, 40]), k=st.sampled_from([1, 3, 8, 100]))
def test_one_position_of_a_wider_vocabulary_has_the_law_p(rule: Rule, seed: int, size: int, k: int) -> None:
    pair = random_pair(size, seed, scale=2.0, max_entries=k, p_sampling={"top_p": 0.95}, q_sampling={"min_p": 0.01})
    found = emitted_law(rule, Drafting(pair, Limits(max_tokens=1)), 0, 1)
    torch.testing.assert_close(found, pair.p[0], rtol=0, atol=EXACT)


@settings(max_examples=200, deadline=None)
@given(
    p=st.lists(st.just(0.0) | st.floats(1e-12, 1), min_size=6, max_size=6).filter(any),
    q=st.lists(st.just(0.0) | st.floats(1e-12, 1), min_size=6, max_size=6).filter(any),
    equal=st.booleans(),
)
def test_acceptance_and_residual_add_up_to_p(p: list[float], q: list[float], equal: bool) -> None:
    target, draft = (torch.tensor(law, dtype=torch.float64) for law in (p, p if equal else q))
    target, draft = target / target.sum(), draft / draft.sum()
    accepted = draft * ratio_acceptance(target, draft)
    left = residual(target, draft)
    rejected = 1 - accepted.sum()
    if equal:
        assert float(left.sum()) == 0 and float(rejected) == pytest.approx(0, abs=EXACT)
    else:
        torch.testing.assert_close(left.sum(), rejected, rtol=0, atol=EXACT)
        torch.testing.assert_close(accepted + left, target, rtol=0, atol=EXACT)


@pytest.mark.parametrize("rule", RULES)
def test_equal_models_reject_nothing(rule: Rule) -> None:
    check = Verifier(rule, equal_pair(4))
    acceptance, corrections = check(0, (1, 2, 3))
    assert acceptance == [1.0] * 3
    torch.testing.assert_close(corrections, torch.full((3, 4), 0.25, dtype=torch.float64))


@pytest.mark.parametrize("rule", RULES)
def test_what_the_target_forbids_is_never_kept(rule: Rule) -> None:
    pair = PAIRS["zeros in p"]
    check = Verifier(rule, pair)
    for state in range(4):
        forbidden = (state + 1) % 4
        acceptance, corrections = check(state, (forbidden, 0))
        assert acceptance[0] == 0 and float(corrections[0, forbidden]) == 0
        if rule is Rule.BLOCK:  # nor with a longer prefix
            assert acceptance[1] == 0


def test_block_verification_keeps_at_least_as_much_as_the_ratio_test() -> None:
    for name, pair in PAIRS.items():
        drafting, expected = Drafting(pair, LIMITS["fixed 3"]), {}
        for rule in RULES:
            check = Verifier(rule, pair)
            expected[rule] = sum(
                chance * kept * weight
                for block, chance in leaves(drafting.tree(0), pair)
                for kept, weight in enumerate(kept_chances(rule, check(0, block)[0]))
            )
        assert expected[Rule.BLOCK] >= expected[Rule.RATIO] - EXACT, name
        if name == "plain":
            assert expected[Rule.BLOCK] > expected[Rule.RATIO] + 0.01


def test_a_pair_by_hand() -> None:
    # p = (1/2, 1/2), q = (3/4, 1/4): accept 0 with 2/3, 1 always; the residual is all on 1.
    row = torch.tensor([0.75, 0.25]).log().expand(2, -1)
    pair = Pair(torch.full((2, 2), 0.5).log(), row)
    q = pair.q(0)
    acceptance, corrections = Verifier(Rule.RATIO, pair)(0, (0, 1))
    assert acceptance == pytest.approx([0.5 / float(q[0]), 1.0]) and float(q[0]) == pytest.approx(0.75, abs=1e-3)
    assert corrections[0].tolist() == [0.0, 1.0]
