"""What the G-test is worth: programs with one mistake in their noise, which it must refuse.

The exact check cannot see these: it takes the independence of the streams for granted. Production passes the same
check in `test_joint_law.py`; here it does so once more beside each mutant.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tandem.noise import Purpose
from target_service import verification
from target_service.verification import Rule
from tests.statistics.goodness import ERROR_RATE, g_test
from tests.statistics.pairs import Pair, pairs
from tests.statistics.simulation import OWN_NOISE, Simulation, counts, tabulate
from tests.statistics.trees import LIMITS, Drafting, Limits

RULES = [Rule.RATIO, Rule.BLOCK]
SAMPLES = 300_000
PAIRS = pairs(4)


def chance(rule: Rule, drafting: Drafting, **options) -> float:
    """The chance of counts as far from the target's law as those found."""
    found = Simulation(tabulate(rule, drafting), **options).run(0, np.arange(SAMPLES, dtype=np.uint64))
    return g_test(counts(found, drafting.pair.size), drafting.pair.joint(0, 3))


def shared(purpose: Purpose, source: Purpose) -> dict[Purpose, Purpose]:
    return {**OWN_NOISE, purpose: source}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("purpose", "source"),
    [
        (Purpose.CORRECTION, Purpose.DRAFT),
        (Purpose.ACCEPT, Purpose.DRAFT),
        (Purpose.CORRECTION, Purpose.ACCEPT),
    ],
)
def test_noise_shared_between_two_purposes_is_seen(rule: Rule, purpose: Purpose, source: Purpose) -> None:
    drafting = Drafting(PAIRS["far apart"], LIMITS["fixed 2"])
    assert chance(rule, drafting) > ERROR_RATE
    assert chance(rule, drafting, noise=shared(purpose, source)) < ERROR_RATE


def test_noise_shared_by_draft_and_residual_biases_the_first_token() -> None:
    """The mistake at its plainest: one position, no rounds, and a bias of about two in a hundred."""
    p, q = torch.tensor([0.4, 0.3, 0.3]), torch.tensor([0.2, 0.1, 0.7])
    pair = Pair(p.log().expand(3, -1), q.log().expand(3, -1))
    tables = tabulate(Rule.RATIO, Drafting(pair, Limits(max_tokens=1)))
    seeds, law = np.arange(SAMPLES, dtype=np.uint64), pair.joint(0, 1)
    assert g_test(counts(Simulation(tables, length=1).run(0, seeds), 3), law) > ERROR_RATE
    mutant = Simulation(tables, length=1, noise=shared(Purpose.CORRECTION, Purpose.DRAFT)).run(0, seeds)
    assert g_test(counts(mutant, 3), law) < ERROR_RATE
    assert float((counts(mutant, 3) / SAMPLES - law).abs().max()) > 0.01


def test_redraws_with_the_noise_of_the_first_draw_are_seen_under_block_verification() -> None:
    """What was drafted and thrown away was judged with later tokens in view, so its noise must not come again."""
    drafting = Drafting(PAIRS["far apart"], LIMITS["fixed 3"])
    assert chance(Rule.BLOCK, drafting) > ERROR_RATE
    assert chance(Rule.BLOCK, drafting, attempts=False) < ERROR_RATE


@pytest.mark.parametrize("rule", RULES)
def test_the_g_test_sees_what_the_exact_check_sees_too(monkeypatch, rule: Rule) -> None:
    assert chance(rule, Drafting(PAIRS["plain"], LIMITS["probability"])) > ERROR_RATE
    assert chance(rule, Drafting(PAIRS["plain"], LIMITS["probability"], drops=True)) < ERROR_RATE
    monkeypatch.setattr(verification, "residual", lambda p, q, weight=1.0: p * weight.unsqueeze(-1))
    assert chance(rule, Drafting(PAIRS["plain"], LIMITS["probability"])) < ERROR_RATE
