"""Ways to draft side by side."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from bench.overlap.live import Live
from bench.overlap.paper import Played
from bench.overlap.run import Bound, Sides, Sums
from bench.tables import new_table


def sides_table(sides: Sides, bound: Bound) -> Table:
    """One draft at one delay."""
    table = new_table(
        "way to draft", "length", "tokens/s", "of the bound", "tokens a round", "foreseen", "all kept", "rejected",
        "taken of pushed", "bytes a token",
    )  # fmt: skip
    for (way, length), sums in sorted(sides.items()):
        table.add_row(
            way, str(length), f"{sums.speed:.1f}", f"{sums.speed / bound.speed:.3f}",
            f"{sums.tokens / max(1, sums.rounds):.2f}", "-" if sums.hit_rate is None else f"{sums.hit_rate:.3f}",
            _rate(sums, "all kept"), _rate(sums, "rejected"), _part(sums.taken, sums.pushed),
            f"{sums.size / max(1, sums.tokens):.0f}",
        )  # fmt: skip
    return table


def live_table(live: Live) -> Table:
    """As `sides_table`, without a bound: no two texts are the same."""
    table = new_table("way to draft", "length", "tokens/s", "tokens a round", "foreseen", "all kept", "rejected")
    for (way, length), sums in sorted(live.sides.items()):
        table.add_row(
            way, str(length), f"{sums.speed:.1f}", f"{sums.tokens / max(1, sums.rounds):.2f}",
            "-" if sums.hit_rate is None else f"{sums.hit_rate:.3f}", _rate(sums, "all kept"), _rate(sums, "rejected"),
        )  # fmt: skip
    return table


def paper_table(rows: Sequence[tuple[float, str, str, Played, Bound]]) -> Table:
    """Delay, policy and its lengths, what it played, and the bound."""
    table = new_table(
        "policy", "wire, ms", "asked / taken", "tokens/s", "of the bound", "tokens a round", "foreseen", "all kept",
        "rejected", "rows a token",
    )  # fmt: skip
    for wire, name, lengths, played, bound in rows:
        kinds = (_part(played.hits[is_whole], played.outcomes[is_whole]) for is_whole in (True, False))
        table.add_row(
            name, f"{wire:g}", lengths, f"{played.speed:.1f}", f"{played.speed / bound.speed:.3f}",
            f"{played.tokens / played.rounds:.2f}", f"{played.hit_rate:.3f}", *kinds,
            f"{played.drafted / played.tokens:.1f}",
        )  # fmt: skip
    return table


def _rate(sums: Sums, kind: str) -> str:
    return _part(sums.hits[kind], sums.hits[kind] + sums.misses[kind])


def _part(some: int, whole: int) -> str:
    return f"{some / whole:.3f}" if whole else "-"
