"""Capacity as tables: each load, and what comes of it."""

from __future__ import annotations

from rich.table import Table

from bench.overlap.capacity import ONE_DEVICE, Capacities, formula
from bench.overlap.costs import Costs
from bench.overlap.run import NONE
from bench.tables import new_table


def loads_table(found: Capacities) -> Table:
    """What callers got at each load, and how busy the processors were."""
    table = new_table(
        "devices", "way to draft", "callers at once", "tokens/s of the median caller", "tokens a round", "foreseen",
        "processors busy", "with others",
    )  # fmt: skip
    for (layout, way), loads in found.loads.items():
        for load in loads:
            table.add_row(
                layout.name, way, str(load.callers), f"{load.rate:.1f}", f"{load.round_tokens:.2f}",
                "-" if load.foreseen is None else f"{load.foreseen:.3f}",
                "-" if load.busy is None else f"{load.busy:.0%}",
                "-" if load.machine_busy is None else f"{load.machine_busy:.0%}",
            )  # fmt: skip
    return table


def capacity_table(found: Capacities) -> Table:
    """Callers that have the given rate."""
    table = new_table("devices", "way to draft", "callers", "per target", "over one device, per target")
    for layout, way in found.loads:
        reached = found.of(layout, way)
        sign = "at least " if reached.is_least else ""
        table.add_row(
            layout.name, way, str(reached), f"{sign}{reached.callers / layout.targets:.1f}",
            f"{sign}{found.over_one_device(layout, way):.2f}",
        )  # fmt: skip
    return table


def formula_line(found: Capacities, costs: Costs) -> str:
    """What the formula says of as many callers as one device serves."""
    callers = found.of(ONE_DEVICE, NONE).callers
    rows = max(1, round(callers))
    return (
        f"1 + gamma t_draft / t_verify (arXiv 2606.25091) = {formula(costs, found.length, callers):.2f} with gamma"
        f" {found.length}, t_draft {costs.draft_step(rows):g} ms, t_verify"
        f" {costs.target_step(rows * (found.length + 1)):g} ms, those of steps with {rows} callers"
    )
