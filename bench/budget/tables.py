"""The ways side by side."""

from __future__ import annotations

from rich.table import Table

from bench.budget.run import ALL, WAYS, Measured, Scale
from bench.serve.records import Percentiles
from bench.tables import new_table


def ways_table(measured: Measured, scale: Scale) -> Table:
    table = new_table(
        "callers", "candidates of a step", "tokens/s", f"times {ALL}", "a token, ms", "tokens of a round",
        "candidates of a block", "not verified",
    )  # fmt: skip
    for clients in scale.clients:
        for way in WAYS:
            point = measured.points[way, clients]
            ratio = "1" if way == ALL else str(measured.ratio(way, clients))
            table.add_row(
                str(clients), way, f"{point.tokens_per_second:.1f}", ratio, _milliseconds(point.per_token),
                _number(point.mean_acceptance_length), _number(point.mean_block_length),
                _number(measured.unsubmitted(way, clients)),
            )  # fmt: skip
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _milliseconds(found: Percentiles | None) -> str:
    return "-" if found is None else f"{found.p50 * 1e3:.1f} / {found.p95 * 1e3:.1f}"
