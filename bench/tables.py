"""Results as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.box import MARKDOWN
from rich.table import Table

from bench.goals import Row
from bench.wire import Exchange

if TYPE_CHECKING:
    from bench.rig_figures import RigFigures  # with torch


def rig_table(results: Sequence[RigFigures]) -> Table:
    """A rig's models beside the one that they are made of."""
    table = new_table("model", "dtype", "weights", "parameters", "agreement", "a step, ms", "over the base model's")
    for row in results:
        agreement = f"{row.agreement:.3f} of {row.positions}"
        parameters = f"{row.parameters / 1e6:.0f} M"
        times = f"{row.milliseconds:.1f}", f"{row.step:.2f}"
        table.add_row(row.name, row.dtype, row.weights, parameters, agreement, *times)
    return table


def wire_table(results: Mapping[str, Exchange]) -> Table:
    """One exchange, by what the server does between messages."""
    table = new_table("the server", "to server, ms", "thread to loop, ms", "to client, ms", "together, ms")
    for name, cost in results.items():
        columns = (cost.to_server, cost.thread_to_loop, cost.to_client, cost.total)
        table.add_row(name, *(f"{value:.2f}" for value in columns))
    return table


def goals_table(rows: Iterable[Row]) -> Table:
    """Figures beside their goals; what each one is stands in goals.toml."""
    table = new_table("figure", "measured", "middle half", "goal", "verdict")
    table.add_column("made of")
    for row in rows:
        figure = row.figure
        table.add_row(
            figure.name,
            "" if figure.measured is None else f"{figure.measured:.3f}",
            f"{figure.spread[0]:.3f} to {figure.spread[1]:.3f}" if figure.spread else "",
            str(row.goal) if row.goal else "none",
            row.verdict.value,
            figure.note if row.goal else f"{figure.note} ({row.what})",
        )
    return table


def new_table(first: str, *others: str) -> Table:
    """The first column is text, the others are numbers."""
    table = Table(first, box=MARKDOWN)
    for name in others:
        table.add_column(name, justify="right")
    return table
