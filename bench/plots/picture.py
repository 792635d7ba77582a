"""A picture and what becomes of it: SVG or PNG, the same bytes for the same data."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from bench.intervals import Interval

_WIDTH_INCHES = 8.6
_DOTS_PER_INCH = 150
_LONGEST_NAME = 34

_STYLE: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "errorbar.capsize": 2,
    "text.parse_math": False,  # names are names, whatever they contain
    "svg.hashsalt": "tandem",
    "svg.fonttype": "path",  # no fonts to look for
}


@dataclass(frozen=True, slots=True)
class Picture:
    """name: for its file. caption: what is to be seen, and how it was computed. Made in the house's style."""

    name: str
    title: str
    caption: str
    figure: Figure

    def __post_init__(self) -> None:
        settle(self.figure)


@dataclass(frozen=True, slots=True)
class Absent:
    """A picture that cannot be drawn. why: a sentence."""

    title: str
    why: str


Drawn = Picture | Absent


@contextmanager
def house_style() -> Iterator[None]:
    """How everything looks, whatever the user's own settings are. Also a decorator."""
    with style.context(dict(_STYLE), after_reset=True):
        yield


def new_figure(height: float) -> Figure:
    """height: in inches; all are equally wide."""
    return Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")


def settle(figure: Figure) -> None:
    """Places everything, for good: each layout begins where the last one ended, and moves a little on."""
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def grid_of_axes(figure: Figure, rows: int, columns: int, **options: Any) -> list[Axes]:
    """Row by row."""
    return list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def short(name: str) -> str:
    """A name from a file, as long as a legend can hold. A legend would pass over one that begins with `_`."""
    line = textwrap.shorten(name, _LONGEST_NAME, placeholder="...") if name.strip() else "(no name)"
    line = line if len(line) <= _LONGEST_NAME and line != "..." else f"{name[: _LONGEST_NAME - 3]}..."
    return f" {line}" if line.startswith("_") else line


def from_zero(axes: Axes) -> None:
    """Heights are then to scale, and the highest line keeps off the edge."""
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])


def reach(interval: Interval) -> list[list[float]]:
    """How far an interval goes to both sides of its middle, as error bars take it. Where an end is the middle, as of
    a share of 0, rounding may have put it on the wrong side."""
    return [[max(0.0, interval.middle - interval.low)], [max(0.0, interval.high - interval.middle)]]


def legend_below(figure: Figure, handles: Mapping[str, Any], columns: int = 4) -> None:
    """Below everything, where it covers no data. Names are shortened."""
    figure.legend(list(handles.values()), [short(name) for name in handles], loc="outside lower center", ncols=columns)


def to_svg(picture: Picture) -> bytes:
    with house_style():
        content = io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # would differ, or point to places on the net
        picture.figure.savefig(content, format="svg", metadata=nothing)
    return _without_document_type(content.getvalue())


def to_png(picture: Picture) -> bytes:
    with house_style():
        content = io.BytesIO()
        picture.figure.savefig(content, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return content.getvalue()


def save(picture: Picture, folder: Path, stem: str) -> None:
    """As STEM.svg and STEM.png. Raises OSError."""
    (folder / f"{stem}.svg").write_bytes(to_svg(picture))
    (folder / f"{stem}.png").write_bytes(to_png(picture))


def _without_document_type(svg: bytes) -> bytes:
    """Browsers need none, and it names an address."""
    return svg[svg.index(b"<svg") :]
