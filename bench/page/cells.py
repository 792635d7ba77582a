"""Tables of a page, and how numbers stand in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.intervals import Interval


@dataclass(frozen=True, slots=True)
class Table:
    """texts: columns beside the first that are text; all others are numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: Sequence[int] = field(default=())


def number(value: float | None, digits: int = 2) -> str:
    """Empty where there is none."""
    return "" if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}".replace("%", " %")


def interval(value: Interval | None, digits: int = 2) -> str:
    """As `0.71 (0.65 to 0.77)`."""
    if value is None:
        return ""
    return f"{value.middle:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"
