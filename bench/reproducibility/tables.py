"""How often one text was made, as a table."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from bench.reproducibility.run import Sameness
from bench.tables import new_table


def sameness_table(found: Mapping[str, Sameness]) -> Table:
    """Of each way against the target alone."""
    table = new_table("against the target alone", "equal texts", "tokens before a difference", "drafted", "accepted")
    for name, same in found.items():
        counts = [str(same.drafted), str(same.accepted)] if same.drafted else ["", ""]
        table.add_row(name, f"{same.equal} of {same.texts}", f"{same.before / same.tokens:.1%}", *counts)
    return table
