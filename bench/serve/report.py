"""What a run's points come to: printed, and as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from rich.console import Console

from bench.serve.compare import Crossing, Ratio, Sweep, over_alone, stops_paying, sweep
from bench.serve.loops import Load
from bench.serve.points import Point
from bench.serve.tables import crossing_table, load_table, sweep_table

_PAYS = {
    "closed": "speculation pays while a policy gives more tokens per second than the target alone",
    "open": "speculation pays while a policy's median latency is below that of the target alone",
}


class Report:
    """Of all points of a run."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.points = points

    @cached_property
    def ratios(self) -> dict[str, dict[Load, Ratio | None]]:
        return over_alone(self.points)

    @cached_property
    def sweeps(self) -> list[Sweep]:
        return sweep(self.points)

    @cached_property
    def loads(self) -> list[Load]:
        return list(dict.fromkeys(point.load for point in self.points))

    @cached_property
    def kinds(self) -> list[str]:
        return list(dict.fromkeys(load.kind for load in self.loads))

    @cached_property
    def crossings(self) -> list[tuple[str, str, Crossing | None, Point | None]]:
        """Policy, kind of load, where speculation stops paying, and the point of the first measured load from there."""
        found = []
        for policy, by_load in self.ratios.items():
            for kind in self.kinds:
                ratios = {load.amount: each for load, each in by_load.items() if load.kind == kind and each}
                crossing = stops_paying(ratios)
                found.append((policy, kind, crossing, self._point(policy, kind, crossing)))
        return found

    def show(self, console: Console) -> None:
        console.print("Times as p50 / p95 / p99. Ratios with their interval of 95 %, where there are repetitions.")
        for kind in self.kinds:
            console.print(f"{kind.capitalize()} loop: {_PAYS[kind]}.")
        for load in self.loads:
            points = [point for point in self.points if point.load == load]
            share = sum(point.cpu_share for point in points) / len(points)
            console.print(f"\n{load} (the bench itself took {share:.1%} of a core)")
            console.print(load_table(points, self.ratios))
        if self.ratios:
            console.print()
            console.print(crossing_table(self.crossings))
        if self.sweeps:
            console.print()
            console.print(sweep_table(self.sweeps))
        console.print()

    def to_plain(self) -> dict[str, Any]:
        """As JSON values. over_alone: of the point's speed, whose meaning depends on the kind; null where there is
        nothing to compare. low and high of a ratio: null where there is one repetition."""
        return {
            "points": [point.to_plain() | {"over_alone": self._over_alone(point)} for point in self.points],
            "crossings": [
                {
                    "policy": policy,
                    "kind": kind,
                    "at": crossing.at if crossing else None,
                    "measured": crossing.measured if crossing else None,
                    "found_by": crossing.found_by if crossing else None,
                    "plain_share": point.plain_share if point else None,
                    "mean_block_length": point.mean_block_length if point else None,
                }
                for policy, kind, crossing, point in self.crossings
            ],
            "sweep": [each.to_plain() for each in self.sweeps],
        }

    def _over_alone(self, point: Point) -> dict[str, Any] | None:
        found = self.ratios.get(point.policy, {}).get(point.load)
        return found.to_plain() if found else None

    def _point(self, policy: str, kind: str, crossing: Crossing | None) -> Point | None:
        if crossing is None:
            return None
        wanted = (policy, kind, crossing.measured)
        return next(point for point in self.points if (point.policy, point.load.kind, point.load.amount) == wanted)
