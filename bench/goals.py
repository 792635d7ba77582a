"""What benches are held to: goals from `goals.toml`, figures as measured, and whether one reaches the other."""

from __future__ import annotations

import enum
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench.intervals import Interval

GOALS = Path(__file__).parent / "goals.toml"

_DIRECTIONS = ("at most", "at least")
_FIELDS = {"what", "goal", "direction"}


class GoalsError(ValueError):
    """The goals cannot be used, or figures and goals do not belong together."""


@dataclass(frozen=True, slots=True)
class Goal:
    """what: the figure in words. direction: `at most` or `at least`."""

    what: str
    goal: float
    direction: str

    def holds(self, measured: float) -> bool:
        """Whether `measured` reaches the goal; what is not a finite number never does."""
        if not math.isfinite(measured):
            return False
        return measured <= self.goal if self.direction == "at most" else measured >= self.goal

    def holds_within(self, interval: Interval) -> bool:
        """Whether any of `interval` reaches the goal: noise alone must not make a figure fall short."""
        return self.holds(interval.low if self.direction == "at most" else interval.high)

    def __str__(self) -> str:
        return f"{self.direction} {self.goal:g}"


class Outcome(enum.Enum):
    """How a figure came about. SKIPPED: nobody asked for it, or what was asked for says nothing of the goal."""

    MEASURED = "measured"
    SKIPPED = "skipped"
    FAILED = "failed"


class Verdict(enum.Enum):
    """Of a figure against its goal. A figure that failed is short: nothing shows that it holds."""

    HOLDS = "holds"
    SHORT = "short"
    SKIPPED = "skipped"
    NO_GOAL = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a bench. measured: None where there is none; `note` then says why, and otherwise what it was
    made of. spread: the quartiles of its repetitions. interval: of 95 %, for a figure that is short only where all of
    it lies on the wrong side of the goal; without one `measured` decides."""

    name: str
    measured: float | None
    spread: tuple[float, float] | None = None
    note: str = ""
    outcome: Outcome = Outcome.MEASURED
    interval: Interval | None = None

    @classmethod
    def skipped(cls, name: str, why: str, measured: float | None = None) -> Self:
        return cls(name, measured, note=why, outcome=Outcome.SKIPPED)

    @classmethod
    def failed(cls, name: str, why: str) -> Self:
        return cls(name, None, note=why, outcome=Outcome.FAILED)


@dataclass(frozen=True, slots=True)
class Row:
    """A figure beside its goal. goal: None where it has none. what: the figure in words, or why it has no goal."""

    figure: Figure
    goal: Goal | None
    what: str
    verdict: Verdict


def read_goals(bench: str, path: Path = GOALS) -> dict[str, Goal]:
    """The goals of a bench by the figure's name. Raises OSError or GoalsError, naming the entry."""
    try:
        sections = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GoalsError(f"{path} is not TOML: {error}") from error
    entries = sections.get(bench)
    if not isinstance(entries, dict):
        raise GoalsError(f"{path} has no goals for {bench!r}; there are {', '.join(sorted(sections)) or 'none'}")
    return {name: _goal(f"{path.name}: [{bench}.{name}]", entry) for name, entry in entries.items()}


def judge(figures: Iterable[Figure], goals: Mapping[str, Goal], without_goal: Mapping[str, str]) -> list[Row]:
    """A row for each figure, and one that is short for each goal that got no figure.

    without_goal: why a figure has no goal, by its name. Raises GoalsError for a figure with neither, or given twice.
    """
    rows: dict[str, Row] = {}
    for figure in figures:
        if figure.name in rows:
            raise GoalsError(f"{figure.name} was measured twice")
        if figure.name in goals:
            goal = goals[figure.name]
            rows[figure.name] = Row(figure, goal, goal.what, _verdict(figure, goal))
        elif figure.name in without_goal:
            rows[figure.name] = Row(figure, None, without_goal[figure.name], Verdict.NO_GOAL)
        else:
            raise GoalsError(f"{figure.name} has no goal, and nothing says why")
    for name, goal in goals.items():
        if name not in rows:
            rows[name] = Row(Figure.failed(name, "the bench gave no such figure"), goal, goal.what, Verdict.SHORT)
    return list(rows.values())


def falls_short(rows: Iterable[Row]) -> bool:
    return any(row.verdict is Verdict.SHORT for row in rows)


def summary(rows: Sequence[Row]) -> str:
    """One line, as `15 of 17 goals hold, 1 falls short, 1 not measured`."""
    verdicts = [row.verdict for row in rows]
    count, short = sum(row.goal is not None for row in rows), verdicts.count(Verdict.SHORT)
    parts = [f"{verdicts.count(Verdict.HOLDS)} of {count} goals hold"]
    if short:
        parts.append(f"{short} {'falls' if short == 1 else 'fall'} short")
    if skipped := verdicts.count(Verdict.SKIPPED):
        parts.append(f"{skipped} not measured")
    return ", ".join(parts)


def _verdict(figure: Figure, goal: Goal) -> Verdict:
    if figure.outcome is Outcome.SKIPPED:
        return Verdict.SKIPPED
    if figure.outcome is Outcome.FAILED or figure.measured is None:
        return Verdict.SHORT
    holds = goal.holds(figure.measured) if figure.interval is None else goal.holds_within(figure.interval)
    return Verdict.HOLDS if holds else Verdict.SHORT


def _goal(where: str, entry: Any) -> Goal:
    if not isinstance(entry, dict) or set(entry) != _FIELDS:
        raise GoalsError(f"{where} needs exactly {', '.join(sorted(_FIELDS))}")
    number = entry["goal"]
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise GoalsError(f"{where}: goal must be a number, not {number!r}")
    if entry["direction"] not in _DIRECTIONS:
        raise GoalsError(f"{where}: direction must be one of {', '.join(_DIRECTIONS)}, not {entry['direction']!r}")
    return Goal(str(entry["what"]), float(number), entry["direction"])
