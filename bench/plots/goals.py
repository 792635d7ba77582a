"""Figures over their goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from bench.plots.forms.others import RowForm
from bench.plots.picture import Absent, Drawn, Picture, house_style, legend_below, new_figure, short

TITLE = "Figures over their goals"
_SIDES = {
    "at most": "at most: holds on the line and left of it",
    "at least": "at least: holds on the line and right of it",
}
_FAR_APART = 20  # ratios that share a panel; beyond, its axis is logarithmic
_LOOKS: Mapping[str | None, tuple[str, str, str]] = {
    "holds": ("holds", "o", "#0072B2"),
    "short": ("falls short", "X", "#D55E00"),
}
_NO_VERDICT = ("no verdict", "D", "#666666")


def over_goal(row: RowForm) -> float | None:
    """None where there is no ratio: not measured, no goal, or a goal of 0."""
    return row.measured / row.goal if row.measured is not None and row.goal else None


@house_style()
def draw(rows: Sequence[RowForm]) -> Drawn:
    """A panel for each direction."""
    with_goal = [row for row in rows if row.goal is not None]
    with_ratio = [row for row in with_goal if over_goal(row) is not None]
    sides = {side: found for side in _SIDES if (found := [row for row in with_ratio if row.direction == side])}
    if not sides:
        return Absent(TITLE, "No figure was measured that has a goal other than 0.")
    figure = new_figure(1.0 + sum(0.6 + 0.27 * len(found) for found in sides.values()))
    panels = figure.subplots(len(sides), 1, squeeze=False, height_ratios=[len(found) + 1.2 for found in sides.values()])
    handles: dict[str, object] = {}
    for axes, (side, found) in zip(panels.flat, sides.items(), strict=True):
        handles.update(_panel(axes, found))
        axes.set_title(_SIDES[side])
    legend_below(figure, handles)
    shown = sum(map(len, sides.values()))
    caption = "With the quartiles of the repetitions."
    if left_out := len(with_goal) - shown:
        caption += f" Not drawn, as not measured or with a goal of 0: {left_out}; the table has them."
    return Picture("goals", TITLE, caption, figure)


def _panel(axes: Axes, rows: Sequence[RowForm]) -> dict[str, object]:
    handles: dict[str, object] = {}
    for at, row in enumerate(rows):
        ratio = over_goal(row)
        assert ratio is not None and row.goal
        low, high = sorted(end / row.goal for end in row.spread) if row.spread else (ratio, ratio)
        axes.plot((low, high), (at, at), color="black", linewidth=1, solid_capstyle="butt")
        label, marker, colour = _LOOKS.get(row.verdict, _NO_VERDICT)
        (handles[label],) = axes.plot(ratio, at, linestyle="none", marker=marker, color=colour, label=label)
    handles["goal"] = axes.axvline(1, color="black", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(rows)), [short(row.name) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("measured / goal (ratio)")
    ratios = [ratio for row in rows if (ratio := over_goal(row)) is not None]
    if min(ratios) > 0 and max(ratios) / min(ratios) > _FAR_APART:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    return handles
