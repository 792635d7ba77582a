"""What was measured under load, as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.table import Table

from bench.policies import ALONE
from bench.serve.compare import Crossing, Ratio, Sweep
from bench.serve.loops import Load
from bench.serve.points import Point
from bench.serve.records import Percentiles
from bench.tables import new_table

_NOTHING = "-"


def load_table(points: Iterable[Point], ratios: Mapping[str, Mapping[Load, Ratio | None]]) -> Table:
    """All policies at one load."""
    table = new_table(
        "policy", "tokens/s", "requests/s", "first token, ms", "a token after it, ms", "latency, ms", "requests",
        "failed", "without draft", "mean acceptance length", "by the target alone", "over target alone",
    )  # fmt: skip
    for point in points:
        table.add_row(
            point.policy,
            f"{point.tokens_per_second:.1f}",
            f"{point.requests_per_second:.2f}",
            _milliseconds(point.first_token, 0),
            _milliseconds(point.per_token, 1),
            _milliseconds(point.latency, 0),
            str(len(point.completed)),
            _failures(point),
            str(point.draft_failures),
            _number(point.mean_acceptance_length, ".2f"),
            _number(point.plain_share, ".0%"),
            "1" if point.policy == ALONE else str(ratios[point.policy][point.load] or _NOTHING),
        )
    return table


def crossing_table(rows: Sequence[tuple[str, str, Crossing | None, Point | None]]) -> Table:
    """Where speculation stops paying, and what the system does there.

    rows: policy, kind of load, where, and the point of the first measured load that is no less.
    """
    table = new_table("policy", "load", "stops paying at", "told by", "by the target alone there", "mean block there")
    for policy, kind, crossing, point in rows:
        if crossing is None or point is None:
            table.add_row(policy, kind, "none measured", "", "", "")
            continue
        table.add_row(
            policy,
            kind,
            f"{crossing.at:.3g}",
            crossing.found_by,
            _number(point.plain_share, ".0%"),
            _number(point.mean_block_length, ".1f"),
        )
    return table


def sweep_table(sweeps: Iterable[Sweep]) -> Table:
    """The goodput rule against fixed lengths and the target alone."""
    table = new_table("load", "best fixed length", "goodput over best fixed", "goodput over none")
    for sweep in sweeps:
        ratios = (str(each or _NOTHING) for each in (sweep.over_best, sweep.over_alone))
        table.add_row(str(sweep.load), sweep.best, *ratios)
    return table


def _milliseconds(found: Percentiles | None, digits: int) -> str:
    """p50 / p95 / p99."""
    if found is None:
        return _NOTHING
    return " / ".join(f"{seconds * 1e3:.{digits}f}" for seconds in (found.p50, found.p95, found.p99))


def _failures(point: Point) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(point.failures.items()))
    return f"{point.failures.total()} ({kinds})" if kinds else "0"


def _number(value: float | None, form: str) -> str:
    return _NOTHING if value is None else format(value, form)
