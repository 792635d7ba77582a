"""Sides beside each other, as a table for each load."""

from __future__ import annotations

from collections.abc import Callable

from rich.table import Table

from bench.intervals import geometric_mean, paired_ratio
from bench.peers.figures import equal_texts
from bench.peers.names import ASSISTED, OURS, PLAIN
from bench.peers.run import Measured, Results
from bench.tables import new_table


def load_table(results: Results, clients: int, decode: Callable[[list[int]], str]) -> Table:
    """Speeds as geometric means over repetitions; ratios repetition by repetition, with intervals of 95 %.

    decode: from tokens to text, for sides that give texts alone.
    """
    table = new_table("side", "tokens/s", f"over {PLAIN}", f"over {ASSISTED}", f"texts as {PLAIN}'")
    table.add_column("made of")
    for name, measured in sorted(results.measured[clients].items(), key=lambda entry: _group(entry[0])):
        same = equal_texts(results, clients, name, decode)
        table.add_row(
            name,
            f"{geometric_mean(measured.speeds):.1f}",
            *(_over(measured, results.find(clients, peer)) for peer in (PLAIN, ASSISTED)),
            "" if same is None else f"{same[0]} of {same[1]}",
            measured.side.note(clients),
        )
    return table


def missing_table(results: Results) -> Table:
    """Sides without figures, and why."""
    table = Table("not measured", "why", box=new_table("").box)
    for name, why in (results.absent | results.failed).items():
        table.add_row(name, why)
    return table


def _group(side: str) -> int:
    """Transformers first, as all are compared with it, then Tandem; the others in the order they were measured in."""
    return 0 if side.startswith(PLAIN) else 1 if side.startswith(OURS) else 2


def _over(measured: Measured, peer: Measured | None) -> str:
    if peer is None:
        return ""
    return "1" if measured is peer else str(paired_ratio(measured.speeds, peer.speeds))
