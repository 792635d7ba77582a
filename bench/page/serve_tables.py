"""Tables of what `bench serve` measured."""

from __future__ import annotations

from collections.abc import Sequence

from bench.intervals import Interval
from bench.page.cells import Table, interval, number, percent
from bench.plots.forms.serve import Crossing, Kind, Percentiles, Point, Ratio, ServeData, Sweep
from bench.policies import ALONE

_LOADS = {"open": "requests/s offered", "closed": "clients"}


def serve_tables(serve: ServeData) -> list[Table]:
    kinds: list[Kind] = list(dict.fromkeys(point.kind for point in serve.points))
    loads = [load_table(kind, [point for point in serve.points if point.kind == kind]) for kind in kinds]
    return [*loads, crossing_table(serve.crossings), sweep_table(serve.sweep)]


def load_table(kind: Kind, points: Sequence[Point]) -> Table:
    head = (
        "policy", _LOADS[kind], "completed", "failed", "tokens/s", "requests/s", "first token, ms: p50 / p95 / p99",
        "a token, ms: p50 / p95 / p99", "latency, ms: p50 / p95 / p99", "mean acceptance length",
        "made by the target alone", "over target alone",
    )  # fmt: skip
    rows = [
        (
            point.policy, f"{point.load:g}", str(point.requests), str(point.failed), number(point.tokens_per_second, 1),
            number(point.requests_per_second), _times(point.first_token_ms), _times(point.per_token_ms),
            _times(point.latency_ms), number(point.mean_acceptance_length), percent(point.plain_share),
            "1" if point.policy == ALONE else _ratio(point.over_alone),
        )
        for point in points
    ]  # fmt: skip
    return Table(f"Under load: {kind}", head, rows)


def crossing_table(crossings: Sequence[Crossing]) -> Table:
    head = ("policy", "load", "stops paying at", "told by", "made by the target alone there", "mean block there")
    rows = [
        (
            each.policy, each.kind, "none measured" if each.at is None else _load(each.at, each.kind),
            each.found_by or "", percent(each.plain_share), number(each.mean_block_length, 1),
        )
        for each in crossings
    ]  # fmt: skip
    return Table("Where speculation stops paying", head, rows, texts=(1, 3))


def sweep_table(sweep: Sequence[Sweep]) -> Table:
    head = ("load", "best fixed length", "goodput over best fixed", "goodput over the target alone")
    rows = [
        (_load(each.load, each.kind), each.best_fixed, _ratio(each.over_best_fixed), _ratio(each.over_none))
        for each in sweep
    ]
    return Table("Goodput beside fixed lengths", head, rows, texts=(1,))


def _load(load: float, kind: Kind) -> str:
    return "1 client" if kind == "closed" and load == 1 else f"{load:.3g} {_LOADS[kind]}"


def _ratio(found: Ratio | None) -> str:
    """Without an interval where there is none."""
    if found is None:
        return ""
    if found.low is None or found.high is None:
        return number(found.middle)
    return interval(Interval(found.low, found.middle, found.high))


def _times(times: Percentiles) -> str:
    values = (times.p50, times.p95, times.p99)
    return " / ".join(number(value, 1) or "?" for value in values) if any(v is not None for v in values) else ""
