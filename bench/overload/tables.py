"""Loads side by side."""

from __future__ import annotations

import statistics

from rich.table import Table

from bench.overload.points import LATE, REFUSED
from bench.overload.run import Measured
from bench.serve.records import Percentiles
from bench.tables import new_table


def capacity_table(measured: Measured) -> Table:
    table = new_table("callers in a closed loop", "requests/s within the deadline")
    for clients, rate in measured.by_clients.items():
        table.add_row(str(clients), f"{rate:.2f}")
    return table


def load_table(measured: Measured) -> Table:
    table = new_table(
        "times capacity", "arrivals/s", "goodput/s", "requests", "within the deadline", "refused", "late",
        "failed otherwise", "latency, ms", "refused after, ms", "candidates per token",
    )  # fmt: skip
    for point in measured.points:
        failures, drafted = point.failures, point.candidates_per_token
        others = failures.total() - failures[REFUSED] - failures[LATE]
        table.add_row(
            f"{point.multiple:g}", f"{point.rate:.2f}", f"{statistics.fmean(point.goodputs):.2f}",
            str(len(point.counted)), str(len(point.counted) - failures.total()), str(failures[REFUSED]),
            str(failures[LATE]), str(others), _milliseconds(point.latency), _milliseconds(point.refusal),
            "-" if drafted is None else f"{drafted:.2f}",
        )  # fmt: skip
    return table


def _milliseconds(found: Percentiles | None) -> str:
    """p50 / p95 / p99."""
    if found is None:
        return "-"
    return " / ".join(f"{seconds * 1e3:.0f}" for seconds in (found.p50, found.p95, found.p99))
