"""Names beside markers, where they cover neither markers nor each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from bench.plots.picture import settle, short

Point = tuple[float, float]

_SIZE_POINTS = 8
_DIRECTIONS = 16
_DISTANCES_POINTS = (11, 20, 32, 46, 62, 80)
_CLOSE_POINTS = 20  # beyond, a line leads from the marker to its name
_MARKER_POINTS = 5.0
_MISLEADING = 2000.0  # what a name costs that is as near to another marker, or whose line crosses another name's


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a name may stand: the offset of its nearest edge or corner from its marker, and how far that is."""

    x: float
    y: float
    distance: float

    @property
    def sides(self) -> tuple[str, str]:
        """As matplotlib aligns text."""
        return _side(self.x, "right", "left"), _side(self.y, "top", "bottom")

    def nearest(self, marker: Point, per_point: float) -> Point:
        """Where the name comes nearest to its marker, in pixels."""
        return marker[0] + self.x * per_point, marker[1] + self.y * per_point

    def box(self, marker: Point, size: Bbox, per_point: float) -> Bbox:
        """Of a name of this size, in pixels."""
        shares = {"left": 0.0, "bottom": 0.0, "center": 0.5, "right": 1.0, "top": 1.0}
        across, up = (shares[side] for side in self.sides)
        left, bottom = self.nearest(marker, per_point)
        return Bbox.from_bounds(left - across * size.width, bottom - up * size.height, size.width, size.height)


@dataclass(slots=True)
class _Surface:
    """What names keep off, in pixels. taken: by names already, and leaders: from markers to those names."""

    inside: Bbox
    markers: Sequence[Point]
    lines: Sequence[Bbox]
    per_point: float
    taken: list[Bbox] = field(default_factory=list)
    leaders: list[tuple[Point, Point]] = field(default_factory=list)

    def take(self, marker: Point, size: Bbox) -> _Place:
        """The place that costs least."""
        best = min(_PLACES, key=lambda place: self.cost(place, marker, size))
        self.taken.append(best.box(marker, size, self.per_point))
        self.leaders.append((marker, best.nearest(marker, self.per_point)))
        return best

    def cost(self, place: _Place, marker: Point, size: Bbox) -> float:
        box, half = place.box(marker, size, self.per_point), _MARKER_POINTS * self.per_point
        markers = [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in self.markers]
        nearest = min((_gap(box, other) for other in self.markers if other != marker), default=math.inf)
        leader = (marker, place.nearest(marker, self.per_point))
        strays = place.distance <= _CLOSE_POINTS and nearest < 1.3 * _gap(box, marker)
        misleads = strays + sum(_cross(leader, other) for other in self.leaders)
        return (
            20 * (size.width * size.height - _overlap(box, self.inside))
            + 10 * sum(_overlap(box, other) for other in (*self.taken, *markers))
            + sum(_overlap(box, line) for line in self.lines)
            + place.distance * self.per_point
            + misleads * _MISLEADING
        )


_PLACES = tuple(
    _Place(distance * math.cos(turn), distance * math.sin(turn), distance)
    for distance in _DISTANCES_POINTS
    for turn in (2 * math.pi * step / _DIRECTIONS for step in range(_DIRECTIONS))
)


def label_points(axes: Axes, points: Mapping[str, Point], lines: Sequence[Sequence[Point]] = ()) -> None:
    """Writes each name near its point, which is in units of the data.

    lines: from end to end, level or upright, as those of intervals: names keep off them where they can.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    settle(figure)
    at = {name: _in_pixels(axes, point) for name, point in points.items()}
    bars = [Bbox(axes.transData.transform(ends)).padded(1.0) for ends in lines]
    surface = _Surface(axes.get_window_extent(), list(at.values()), bars, figure.dpi / 72)
    for name, marker in sorted(at.items(), key=lambda item: item[1]):  # lines that cross are fewer from left to right
        size = _size(axes, short(name)).padded(1.5 * surface.per_point)
        best = surface.take(marker, size)
        across, up = best.sides
        arrow = {"arrowstyle": "-", "linewidth": 0.5, "color": "#666666", "shrinkA": 0, "shrinkB": 4}
        axes.annotate(
            short(name), points[name], (best.x, best.y), textcoords="offset points", fontsize=_SIZE_POINTS,
            ha=across, va=up, arrowprops=arrow if best.distance > _CLOSE_POINTS else None,
        ).set_in_layout(False)  # fmt: skip


def _in_pixels(axes: Axes, point: Point) -> Point:
    x, y = axes.transData.transform(point)
    return float(x), float(y)


def _size(axes: Axes, name: str) -> Bbox:
    text = axes.text(0, 0, name, fontsize=_SIZE_POINTS)
    size = text.get_window_extent()
    text.remove()
    return size


def _side(offset: float, negative: str, positive: str) -> str:
    return "center" if abs(offset) < 1e-6 else positive if offset > 0 else negative


def _gap(box: Bbox, point: Point) -> float:
    """From the point to the box; 0 inside."""
    return math.hypot(*(max(low - at, at - high, 0.0) for at, low, high in zip(point, box.min, box.max, strict=True)))


def _cross(one: tuple[Point, Point], other: tuple[Point, Point]) -> bool:
    """Whether two lines cross."""
    return _turn(*one, other[0]) != _turn(*one, other[1]) and _turn(*other, one[0]) != _turn(*other, one[1])


def _turn(start: Point, end: Point, point: Point) -> bool:
    """On which side of a line a point lies."""
    across = (end[0] - start[0]) * (point[1] - start[1])
    return across > (end[1] - start[1]) * (point[0] - start[0])


def _overlap(one: Bbox, other: Bbox) -> float:
    shared = Bbox.intersection(one, other)
    return float(shared.width * shared.height) if shared is not None else 0.0
