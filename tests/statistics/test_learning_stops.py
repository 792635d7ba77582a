"""Stop rules that learn from past rounds keep the law exact: what they learn from is decided before the block."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from orchestrator import stopping
from orchestrator.limits_message import limits_message
from orchestrator.stopping import Goodput, RoundCosts, RoundOutcome
from orchestrator.stopping import Limits as RuleLimits
from orchestrator.stopping.base import StopRule
from tandem.distributions import entropy
from target_service.verification import Rule
from tests.statistics.exact import EXACT, Verifier, kept_chances
from tests.statistics.pairs import Pair, random_pair
from tests.statistics.trees import Drafting, Limits, leaves

CAP = 2
PAIR = random_pair(3, 21)
#: A drafter with a distribution, and one that is always sure of what it says, as look-up in the text is.
DRAFTS = {"a law": PAIR, "a point mass": random_pair(3, 21, max_entries=1)}
#: What makes rules act on the rows of these.
SETTINGS: dict[str, dict[str, float]] = {
    "adaedl": {"initial_lambda": 0.52},
    "entropy": {"max_entropy": 0.95},
    "draft-verify": {"initial_min_probability": 0.4},
    "joint-confidence": {"max_failure": 0.6},
}


class Eager:
    """Changes its limits after every round, by all that a rule may know of it."""

    name = "eager"

    def __init__(self) -> None:
        self._limits = RuleLimits(max_tokens=1)

    def limits(self) -> RuleLimits:
        return self._limits

    def update(self, outcome: RoundOutcome) -> None:
        self._limits = RuleLimits(
            max_tokens=outcome.accepted,
            max_entropy_after=outcome.entropies[-1],
            min_probability=outcome.probabilities[-1],
            max_entropy_before=1.0 if outcome.accepted else None,
        )

    def thresholds(self) -> dict[str, float]:
        return {}


RULES: dict[str, Callable[[], StopRule]] = {
    **{name: functools.partial(rule, **SETTINGS.get(name, {})) for name, rule in stopping.RULES.items()},
    "eager": Eager,
}


def outcome(pair: Pair, start: int, block: tuple[int, ...], kept: int) -> RoundOutcome:
    before, drafted = (start, *block), len(block)
    decided = before[: min(kept + 1, drafted)]
    return RoundOutcome(
        acceptances=tuple(float(torch.minimum(pair.p[state], pair.q(state)).sum()) for state in decided),
        costs=RoundCosts(0.02 * drafted, drafted, 0.05 + 0.005 * drafted, 0.0, drafted + 1, 1, 0.003),
        drafted=drafted,
        accepted=kept,
        cap=CAP,
        entropies=tuple(float(entropy(pair.q(state).log())) for state in before[:-1]),
        probabilities=tuple(float(pair.q(state)[token]) for state, token in zip(before, block, strict=False)),
        matched=(True,) * kept + (False,) * (kept < len(block)),
    )


def as_message(limits: RuleLimits) -> Limits:
    return limits_message(limits, min(CAP, limits.max_tokens))


def emitted_law(rule: Rule, check: Verifier, stop: StopRule, start: int, left: int, *, drops: bool) -> Tensor:
    """As `exact.emitted_law`, with the stop rule told what became of each block."""
    pair = check.pair
    total = torch.zeros((pair.size,) * left, dtype=torch.float64)
    for block, chance in leaves(Drafting(pair, as_message(stop.limits()), drops=drops).tree(start), pair):
        acceptance, corrections = check(start, block)
        for kept, weight in enumerate(kept_chances(rule, acceptance)):
            if chance * weight == 0:
                continue
            if kept >= left:
                total[block[:left]] += chance * weight
                continue
            follows = pair.p[(start, *block)[kept]] if kept == len(block) else corrections[kept]
            share = chance * weight * follows
            if kept + 1 < left:
                learnt = copy.deepcopy(stop)
                if block:
                    learnt.update(outcome(pair, start, block, kept))
                rest = [
                    emitted_law(rule, check, learnt, token, left - kept - 1, drops=drops) for token in range(pair.size)
                ]
                share = share.view(-1, *[1] * (left - kept - 1)) * torch.stack(rest)
            total[block[:kept]] += share
    return total


@pytest.mark.parametrize("rule", [Rule.RATIO, Rule.BLOCK])
@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("name", RULES)
def test_no_stop_rule_changes_the_law_also_while_it_learns(rule: Rule, name: str, draft: str) -> None:
    pair = DRAFTS[draft]
    found = emitted_law(rule, Verifier(rule, pair), RULES[name](), 0, 3, drops=False)
    torch.testing.assert_close(found, pair.joint(0, 3), rtol=0, atol=EXACT)


def test_the_goodput_rule_does_change_its_limits() -> None:
    """Lengths and survivals follow what was learnt from blocks, so that the law above is put to a test."""
    rule, limits = Goodput(), set()
    for block, kept in (((1, 2), 2), ((0, 1), 0), ((2, 2), 1)):
        limits.add(repr(rule.limits()))
        rule.update(outcome(PAIR, 0, block, kept))
    assert len(limits) == 3


@pytest.mark.parametrize("name", ["confidence", "eager"])
def test_a_learning_rule_that_drops_by_the_token_itself_is_seen(name: str) -> None:
    found = emitted_law(Rule.RATIO, Verifier(Rule.RATIO, PAIR), RULES[name](), 0, 3, drops=True)
    assert float((found - PAIR.joint(0, 3)).abs().max()) > 1e-3


def test_the_eager_rule_does_change_its_limits() -> None:
    rule = Eager()
    before = rule.limits()
    rule.update(outcome(PAIR, 0, (1, 2), 1))
    assert rule.limits() != before and math.isfinite(rule.limits().min_probability or math.nan)
