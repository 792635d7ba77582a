"""Goals are read strictly, and a figure that was not measured never counts as holding."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bench.goals import Figure, Goal, GoalsError, Verdict, falls_short, judge, read_goals, summary
from bench.intervals import Interval

AT_MOST = Goal("a time", 1.05, "at most")
AT_LEAST = Goal("a speed", 4.5, "at least")


@pytest.mark.parametrize(
    ("goal", "measured", "holds"),
    [
        (AT_MOST, 1.05, True), (AT_MOST, 1.0501, False), (AT_LEAST, 4.5, True), (AT_LEAST, 4.4999, False),
        (AT_MOST, math.nan, False), (AT_LEAST, math.nan, False), (AT_MOST, -math.inf, False),
        (AT_LEAST, math.inf, False),
    ],
)  # fmt: skip
def test_a_goal_holds_up_to_its_edge(goal: Goal, measured: float, holds: bool) -> None:
    assert goal.holds(measured) is holds


def test_only_what_was_measured_holds() -> None:
    goals = {name: AT_MOST for name in ("good", "bad", "skipped", "no verdict", "failed", "absent")}
    figures = [
        Figure("good", 1.0), Figure("bad", 1.1), Figure.skipped("skipped", "not asked for"),
        Figure.skipped("no verdict", "too short", measured=1.0), Figure.failed("failed", "no model"),
        Figure("beside", 7.0),
    ]  # fmt: skip
    rows = judge(figures, goals, {"beside": "for comparison"})
    assert {row.figure.name: row.verdict.value for row in rows} == {
        "good": "holds", "bad": "short", "skipped": "skipped", "no verdict": "skipped", "failed": "short",
        "beside": "", "absent": "short",
    }  # fmt: skip
    assert falls_short(rows) and not falls_short(judge(figures[:1], {"good": AT_MOST}, {}))
    assert not falls_short(judge(figures[2:3], {"skipped": AT_MOST}, {}))
    assert summary(rows) == "1 of 6 goals hold, 3 fall short, 2 not measured"
    assert [row.verdict for row in rows if row.goal is None] == [Verdict.NO_GOAL]


@pytest.mark.parametrize(
    ("goal", "interval", "holds"),
    [
        (AT_LEAST, (4.0, 4.2, 4.5), True), (AT_LEAST, (4.0, 4.2, 4.49), False), (AT_MOST, (1.05, 1.1, 1.2), True),
        (AT_MOST, (1.06, 1.1, 1.2), False), (AT_LEAST, (5.0, 6.0, 7.0), True),
        (AT_LEAST, (math.nan, math.nan, math.nan), False),
    ],
)  # fmt: skip
def test_with_an_interval_only_all_of_it_falls_short(
    goal: Goal, interval: tuple[float, float, float], holds: bool
) -> None:
    (row,) = judge([Figure("noisy", interval[1], interval=Interval(*interval))], {"noisy": goal}, {})
    assert row.verdict is (Verdict.HOLDS if holds else Verdict.SHORT)


@pytest.mark.parametrize("figures", [[Figure("typo", 1.0)], [Figure("good", 1.0), Figure("good", 1.0)]])
def test_figures_that_no_goal_knows_are_refused(figures: list[Figure]) -> None:
    with pytest.raises(GoalsError, match=figures[0].name):
        judge(figures, {"good": AT_MOST}, {})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[engine", "not TOML"),
        ("[other.a]", "'engine'"),
        ("[engine]\na = 1", r"\[engine.a\] needs exactly"),
        ("[engine.a]\nwhat = 'x'\ngoal = 1", r"\[engine.a\] needs exactly"),
        ("[engine.a]\nwhat = 'x'\ngoal = 1\ndirection = 'at most'\nmore = 1", r"\[engine.a\] needs exactly"),
        ("[engine.a]\nwhat = 'x'\ngoal = '1'\ndirection = 'at most'", "goal must be a number"),
        ("[engine.a]\nwhat = 'x'\ngoal = nan\ndirection = 'at most'", "goal must be a number"),
        ("[engine.a]\nwhat = 'x'\ngoal = 1\ndirection = 'below'", "direction must be one of at most, at least"),
    ],
)
def test_goals_that_cannot_be_used_are_named(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "goals.toml"
    path.write_text(text)
    with pytest.raises(GoalsError, match=named):
        read_goals("engine", path)
