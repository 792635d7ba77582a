"""Policies against each other at the same load: ratios, where speculation stops paying, and the best fixed length."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.intervals import Interval, geometric_mean, paired_ratio
from bench.policies import ALONE, GOODPUT
from bench.serve.loops import Load
from bench.serve.points import Point
from tandem.policies import policy_from_names
from tandem.v1 import policy_pb2

#: What the goodput rule is held against: fixed lengths with the same accept rule.
FIXED: Mapping[str, policy_pb2.SpeculationPolicy] = {
    f"fixed, {length}": policy_from_names("fixed", "exact", max_tokens=length) for length in (1, 2, 3, 5, 8, 12)
}


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of two policies' speeds in each repetition, at least one."""

    values: Sequence[float]

    @property
    def middle(self) -> float:
        return geometric_mean(self.values)

    @property
    def interval(self) -> Interval | None:
        """None of one repetition, which tells nothing of noise."""
        return paired_ratio(self.values, [1.0] * len(self.values)) if len(self.values) > 1 else None

    def __str__(self) -> str:
        return f"{self.middle:.2f}" if self.interval is None else str(self.interval)

    def to_plain(self) -> dict[str, Any]:
        interval = self.interval
        return {
            "low": interval.low if interval else None,
            "middle": self.middle,
            "high": interval.high if interval else None,
            "values": list(self.values),
        }


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio | None:
    """Repetition by repetition. None where a side had nothing in one."""
    if not ours or min(*ours, *theirs) <= 0:
        return None
    return Ratio([one / other for one, other in zip(ours, theirs, strict=True)])


def over_alone(points: Iterable[Point]) -> dict[str, dict[Load, Ratio | None]]:
    """Each policy's speed over that of the target alone, by policy and load."""
    points = list(points)
    alone = {point.load: point.speeds for point in points if point.policy == ALONE}
    ratios: dict[str, dict[Load, Ratio | None]] = {}
    for point in points:
        if point.policy != ALONE:
            ratios.setdefault(point.policy, {})[point.load] = ratio(point.speeds, alone[point.load])
    return ratios


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where speculation stops paying. at: the load. measured: the first measured one that is no less. found_by: what
    tells it, in words."""

    at: float
    measured: float
    found_by: str


BELOW = "the interval is below 1"
INTERPOLATED = "interpolated, no interval"
FROM_THE_FIRST = "below 1 at the least load, no interval"


def stops_paying(ratios: Mapping[float, Ratio]) -> Crossing | None:
    """Of the ratios by load. None where speculation pays at all loads, or where no interval shows that it does not.

    With repetitions it is the first load at which the whole interval lies below 1. Without, there is no interval: it
    is then where the line between two neighbouring loads crosses 1, or the least load where that is below 1 already.
    """
    loads = sorted(ratios)
    intervals = [ratios[load].interval for load in loads]
    if all(interval is not None for interval in intervals):
        below = (load for load, each in zip(loads, intervals, strict=True) if each is not None and each.high < 1)
        return next((Crossing(load, load, BELOW) for load in below), None)
    for index, load in enumerate(loads):
        here = ratios[load].middle
        if here >= 1:
            continue
        if index == 0:
            return Crossing(load, load, FROM_THE_FIRST)
        before, left = loads[index - 1], ratios[loads[index - 1]].middle
        return Crossing(before + (left - 1) / (left - here) * (load - before), load, INTERPOLATED)
    return None


@dataclass(frozen=True, slots=True)
class Sweep:
    """The goodput rule at one load. best: the fixed length, or the target alone, whose mean speed over all repetitions
    was highest. It is chosen from the figures that it is compared by, which favours it a little."""

    load: Load
    best: str
    over_best: Ratio | None
    over_alone: Ratio | None

    def to_plain(self) -> dict[str, Any]:
        return {
            "kind": self.load.kind,
            "load": self.load.amount,
            "best_fixed": self.best,
            "over_best_fixed": self.over_best.to_plain() if self.over_best else None,
            "over_none": self.over_alone.to_plain() if self.over_alone else None,
        }


def sweep(points: Iterable[Point]) -> list[Sweep]:
    """For each load at which both the goodput rule and all fixed lengths were measured."""
    by_load: dict[Load, dict[str, Sequence[float]]] = {}
    for point in points:
        by_load.setdefault(point.load, {})[point.policy] = point.speeds
    found = []
    for load, speeds in by_load.items():
        if not {ALONE, GOODPUT, *FIXED} <= speeds.keys():
            continue
        best = max((ALONE, *FIXED), key=lambda name: statistics.fmean(speeds[name]))
        ours = speeds[GOODPUT]
        found.append(Sweep(load, best, ratio(ours, speeds[best]), ratio(ours, speeds[ALONE])))
    return found
