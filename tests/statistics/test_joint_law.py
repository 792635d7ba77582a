"""The law of the first three tokens of a million completions, across the borders of rounds, by a G-test.

Where the first candidate is kept, a round holds two of the three positions or all; where it is rejected, its border
lies between them. Every test is wrong with probability 1e-6 (`goodness.ERROR_RATE`); seeds are fixed.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

from target_service.verification import Rule
from tests.statistics.goodness import ERROR_RATE, g_test
from tests.statistics.pairs import pairs
from tests.statistics.simulation import Simulation, counts, tabulate
from tests.statistics.trees import LIMITS, Drafting

RULES = [Rule.RATIO, Rule.BLOCK]
SAMPLES = 1_000_000
VOCABULARY = 4


@functools.cache
def drafting(pair: str, limits: str) -> Drafting:
    return Drafting(pairs(VOCABULARY)[pair], LIMITS[limits])


def _seeds() -> np.ndarray:
    # Spread over all 64 bits, as seeds that are drawn at random are.
    return np.arange(SAMPLES, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("pair", "limits"),
    [
        ("plain", "fixed 3"),
        ("plain", "entropy before, at least one"),
        ("plain", "entropy after"),
        ("plain", "probability"),
        ("far apart", "joint probability"),
        ("top-p", "probability"),
        ("far apart", "all"),
        ("cut", "fixed 2"),
    ],
)
def test_a_million_completions_have_the_targets_joint_law(rule: Rule, pair: str, limits: str) -> None:
    made = drafting(pair, limits)
    simulation = Simulation(tabulate(rule, made))
    found = counts(simulation.run(0, _seeds()), VOCABULARY)
    assert simulation.rounds >= 2 and simulation.drafted > SAMPLES / 2
    law = made.pair.joint(0, 3)
    # All three positions, and the two pairs of neighbours: a third of the error rate for each.
    chances = [g_test(found, law), *(g_test(found.sum(left_out), law.sum(left_out)) for left_out in (0, 2))]
    assert min(chances) > ERROR_RATE / 3, chances


def test_the_check_sees_another_law_at_once() -> None:
    made = drafting("plain", "fixed 3")
    found = counts(Simulation(tabulate(Rule.RATIO, made)).run(0, _seeds()[:100_000]), VOCABULARY)
    assert g_test(found, made.pair.joint(1, 3)) < 1e-12
