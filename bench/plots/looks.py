"""How each series looks, the same in every picture: colour, marker, line and hatch. No two share marker and line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.policies import POLICIES

#: Okabe and Ito's colours, which most colour-blind readers can tell apart, the yellow darkened for lines; then others.
_COLOURS = (
    "#444444", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B8860B", "#56B4E9", "#8C564B", "#6A3D9A", "#7F7F00",
    "#E7298A", "#1F1F9A",
)  # fmt: skip
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p", "d", "*")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2, 1, 2, 1, 2)))
#: Of straight lines: dots and stars are curves, which take a hundred times the room in SVG.
_HATCHES = ("", "//", "\\" * 2, "xx", "--", "||", "++", "/" * 6, "\\" * 6, "-" * 6, "|" * 6, "x" * 5, "+" * 5)


@dataclass(frozen=True, slots=True)
class Look:
    colour: str
    marker: str
    dash: Any
    hatch: str

    @property
    def line(self) -> dict[str, Any]:
        """Of a line with markers."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dash}

    @property
    def bar(self) -> dict[str, Any]:
        return {"facecolor": paler(self.colour), "edgecolor": "black", "hatch": self.hatch, "linewidth": 0.6}


def looks(names: Iterable[str]) -> dict[str, Look]:
    """By name. Policies of the benches always look the same; others come after them, in their order."""
    known = list(POLICIES)
    others = [name for name in dict.fromkeys(names) if name not in POLICIES]
    return {name: look(index) for index, name in enumerate([*known, *others])}


def look(index: int) -> Look:
    """The n-th. Thirteen markers and hatches and five lines: 65 differ."""
    again = index // len(_HATCHES)  # the next thirteen have their hatches crossed by closer and closer lines
    return Look(
        colour=_COLOURS[index % len(_COLOURS)],
        marker=_MARKERS[index % len(_MARKERS)],
        dash=_DASHES[index % len(_DASHES)],
        hatch=_HATCHES[index % len(_HATCHES)] + "/-" * again,
    )


def paler(colour: str) -> str:
    """Half way to white, so that hatches stand out."""
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{(part + 255) // 2:02x}" for part in parts)
