"""A budget of candidates in the target changes no law: an identity in float64, checked by enumeration."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence

import pytest

from tandem.distributions import entropy
from tandem.inference.choosing import choose
from target_service.scores import scores
from target_service.verification import Rule
from tests.statistics.exact import EXACT, Verifier, error
from tests.statistics.pairs import Pair, pairs
from tests.statistics.trees import LIMITS, Drafting

RULES = [Rule.RATIO, Rule.BLOCK]
PAIRS = pairs(4)
#: Scores of another caller's block in the same step: some between those of these pairs, so that the budget bites.
OTHERS = [[-0.5, -1.2, -2.5], [-1.0, -1.0, -3.0, -3.5]]
BUDGETS = [1, 3, 5, 6]

Score = Callable[[Rule, Sequence[float], Sequence[float]], list[float]]


def submitted(
    rule: Rule, pair: Pair, others: list[list[float]], budget: int, score: Score, start: int, block: tuple[int, ...]
) -> tuple[int, ...]:
    """What of a block a step verifies beside others."""
    laws = [pair.q(state) for state in (start, *block)]
    log_q = [float(law[token].log()) for law, token in zip(laws, block, strict=False)]
    own = score(rule, log_q, [float(entropy(law.log())) for law in laws[:-1]])
    return block[: choose([own, *others], budget)[0]]


def budgeted(rule: Rule, pair: Pair, budget: int, score: Score = scores) -> Callable[..., tuple[int, ...]]:
    return functools.partial(submitted, rule, pair, OTHERS, budget, score)


@functools.cache
def verifier(rule: Rule, name: str) -> Verifier:
    return Verifier(rule, PAIRS[name])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("budget", BUDGETS)
def test_the_joint_law_of_three_tokens_is_the_targets(rule: Rule, name: str, budget: int) -> None:
    pair = PAIRS[name]
    drafting = Drafting(pair, LIMITS["fixed 3"])
    assert error(rule, drafting, check=verifier(rule, name), submitted=budgeted(rule, pair, budget)) < EXACT


def test_the_budget_makes_blocks_of_several_lengths() -> None:
    """Otherwise the test above would say little."""
    blocks = list(itertools.product(range(4), repeat=3))
    lengths = {}
    for budget in BUDGETS:
        cut = budgeted(Rule.RATIO, PAIRS["plain"], budget)
        lengths[budget] = {len(cut(start, block)) for start in range(4) for block in blocks}
    assert sum(len(each) > 1 for each in lengths.values()) >= 2, lengths


@pytest.mark.parametrize("rule", RULES)
def test_a_score_that_looks_at_the_token_itself_changes_the_law(rule: Rule) -> None:
    """The paper's own ranking, which is right where a match decides."""

    def running(_: Rule, log_q: Sequence[float], entropies: Sequence[float]) -> list[float]:
        return scores(Rule.COUPLED, log_q, entropies)

    pair = PAIRS["plain"]
    drafting = Drafting(pair, LIMITS["fixed 3"])
    found = max(
        error(rule, drafting, check=verifier(rule, "plain"), submitted=budgeted(rule, pair, budget, running))
        for budget in BUDGETS
    )
    assert found > 0.001


def test_scores_by_hand() -> None:
    log_q, entropies = [-0.1, -0.7, -0.2], [0.5, 0.4, 0.9]
    assert scores(Rule.GREEDY, log_q, entropies) == pytest.approx([-0.1, -0.8, -1.0])
    assert scores(Rule.COUPLED, log_q, entropies) == scores(Rule.GREEDY, log_q, entropies)
    # Before the first nothing, before the second -.1, before the third -.8; less the entropy of each: the first two
    # are -.5 and -.5, the third -1.7.
    for rule in RULES:
        assert scores(rule, log_q, entropies) == pytest.approx([-0.5, -0.5, -1.7])


def test_a_score_never_rises_where_the_draft_becomes_surer() -> None:
    # -2, then -.1 - .3 = -.4, which would go before the token that it follows.
    assert scores(Rule.RATIO, [-0.1, -0.1], [2.0, 0.3]) == [-2.0, -2.0]
