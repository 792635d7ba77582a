"""What the exact check is worth: programs with one mistake each, which it must refuse.

Each mutant is compared with the same check that production passes, to 1e-12, in `test_exact_law.py`.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from target_service import rules, verification
from target_service.verification import Rule
from tests.statistics.exact import EXACT, emitted_law, error
from tests.statistics.pairs import Pair, pairs, random_pair
from tests.statistics.trees import LIMITS, Drafting, Limits

RULES = [Rule.RATIO, Rule.BLOCK]
PAIRS = pairs(4)
PLAIN = PAIRS["plain"]
THREE = LIMITS["fixed 3"]


@pytest.mark.parametrize("rule", RULES)
def test_a_residual_replaced_by_p_is_seen(monkeypatch, rule: Rule) -> None:
    assert error(rule, Drafting(PLAIN, THREE)) < EXACT
    monkeypatch.setattr(verification, "residual", lambda p, q, weight=1.0: p * weight.unsqueeze(-1))
    assert error(rule, Drafting(PLAIN, THREE)) > 1e-3


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["plain", "sharp"])
def test_a_q_taken_before_rounding_is_seen(rule: Rule, name: str) -> None:
    """The draft draws from its own numbers and sends rounded ones."""
    pair = PAIRS[name]

    def unrounded(state: int) -> Tensor:
        return torch.log_softmax(pair.log_q[state].double(), -1).exp()

    drafting = Drafting(pair, THREE)
    assert error(rule, drafting, drawn=pair.q) < EXACT
    assert error(rule, drafting, drawn=unrounded) > 1e-6


def test_a_q_taken_before_the_cut_is_seen() -> None:
    """The draft draws from the whole of its law and sends the renormalised head."""
    pair = PAIRS["cut"]

    def head(state: int) -> Tensor:
        return pair.log_q[state].double().exp() * (pair.q(state) > 0)

    assert error(Rule.RATIO, Drafting(pair, LIMITS["fixed 1"]), drawn=head) > 1e-3


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("limits", ["probability", "joint probability"])
def test_tokens_dropped_by_their_own_probability_are_seen(rule: Rule, limits: str) -> None:
    assert error(rule, Drafting(PLAIN, LIMITS[limits])) < EXACT
    assert error(rule, Drafting(PLAIN, LIMITS[limits], drops=True)) > 1e-3


def test_a_dropped_end_token_is_seen() -> None:
    assert error(Rule.RATIO, Drafting(PLAIN, THREE, end_token=1, drops=True)) > 1e-3


def test_tokens_dropped_by_the_entropy_before_them_are_lossless() -> None:
    """Dropping is not the mistake, looking at the token is: its own distribution may decide."""
    assert error(Rule.RATIO, Drafting(PLAIN, LIMITS["entropy after"], drops=True)) < EXACT


def test_the_published_counter_example_has_the_published_bias() -> None:
    # p = (.5, .5), q = (.9, .1), the second token dropped after it was drawn: (.55, .45).
    pair = Pair(torch.full((2, 2), 0.5).log(), torch.tensor([0.9, 0.1]).log().expand(2, -1))
    limits = Limits(max_tokens=1, min_probability=0.5)
    dropping = emitted_law(Rule.RATIO, Drafting(pair, limits, drops=True), 0, 1)
    assert dropping.tolist() == pytest.approx([0.55, 0.45], abs=1e-3)  # fp16 makes .9 a little less
    assert emitted_law(Rule.RATIO, Drafting(pair, limits), 0, 1).tolist() == pytest.approx([0.5, 0.5], abs=EXACT)


def test_block_weights_that_forget_the_prefix_are_seen(monkeypatch) -> None:
    def forgetful(p_x: Tensor, q_x: Tensor) -> Tensor:
        return torch.cat([torch.ones_like(p_x[..., :1]), rules.ratio_acceptance(p_x, q_x)], dim=-1)

    monkeypatch.setattr(verification, "block_weights", forgetful)
    assert error(Rule.BLOCK, Drafting(PLAIN, THREE)) > 1e-3


def test_the_ratio_tests_acceptance_under_the_block_rules_order_is_seen(monkeypatch) -> None:
    """The longest prefix whose last token passes, with the wrong numbers."""
    monkeypatch.setattr(verification, "block_acceptance", lambda weights, surpluses: weights[..., 1:])
    assert error(Rule.BLOCK, Drafting(PLAIN, THREE)) > 1e-3


def test_a_tail_of_p_left_out_of_the_surplus_is_seen(monkeypatch) -> None:
    monkeypatch.setattr(verification, "surplus", lambda p, q, weight, p_rest: rules.surplus(p, q, weight))
    assert error(Rule.BLOCK, Drafting(random_pair(4, 6, max_entries=2), THREE)) > 1e-3
