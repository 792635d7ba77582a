"""Throughput: what completions teach of it comes out again, and little is claimed where little is known."""

from __future__ import annotations

import random

import pytest

from orchestrator.throughput import Pace


def taught(a: float, b: float, *, least: int = 1, most: int = 8, noise: float = 0.0) -> Pace:
    """By many completions, of which so many were under way."""
    pace, source = Pace(), random.Random(1)
    for _ in range(3000):
        n = source.randint(least, most)
        pace.add(n, 3, 3 * (a + b * n) * source.uniform(1 - noise, 1 + noise))
    return pace


@pytest.mark.parametrize(("a", "b"), [(0.01, 0.0), (0.01, 0.002), (0.0, 0.005)])
def test_the_line_is_found(a: float, b: float) -> None:
    pace = taught(a, b, noise=0.3)
    for n in (1, 4, 8, 12):
        assert pace.token_seconds(n) == pytest.approx(a + b * n, rel=0.15, abs=0.001)


def test_a_change_of_pace_is_noticed() -> None:
    pace = taught(0.01, 0.001)
    for _ in range(3000):
        pace.add(4, 3, 3 * 0.1)
    assert pace.token_seconds(4) == pytest.approx(0.1, rel=0.15)


def test_where_one_number_was_seen_more_cost_more_and_fewer_are_not_free() -> None:
    pace = taught(0.02, 0.0, least=4, most=4)
    assert pace.token_seconds(4) == pytest.approx(0.02)
    assert 0.02 < pace.token_seconds(8) <= 0.04 and 0.005 <= pace.token_seconds(1) < 0.02


def test_it_never_falls_with_more_at_once() -> None:
    pace = Pace()
    for n, seconds in ((1, 0.05), (8, 0.01)):
        for _ in range(100):
            pace.add(n, 1, seconds)
    times = [pace.token_seconds(n) for n in range(1, 20)]
    assert times == sorted(times)


def test_lengths_are_those_of_completions_that_could_have_had_them() -> None:
    pace = Pace()
    assert pace.length(16) == 16 and pace.length(4096) < 100  # nothing is known: little is claimed
    for _ in range(20):
        pace.ended(16, 16)
    assert pace.length(16) == 16
    for _ in range(20):
        pace.ended(4096, 300)
    assert pace.length(4096) == 300 and pace.length(16) == 16 and pace.length(200) == 200


def test_the_margin_follows_how_far_off_it_was() -> None:
    good, bad = Pace(), Pace()
    for number in range(40):
        good.judged(1.0, 1.0)
        bad.judged(1.0 + 0.02 * number, 1.0)
    assert 1.0 < good.margin < bad.margin <= 2.0
