"""All methods at a glance: how fast each is, with its interval, a panel for each pair and temperature."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from bench.decode.standing import standing
from bench.plots.forms.methods import MethodRow, MethodsData, MethodsRun
from bench.plots.looks import Look, look
from bench.plots.picture import (
    Absent,
    Drawn,
    Picture,
    grid_of_axes,
    house_style,
    legend_below,
    new_figure,
    short,
)
from bench.policies import ALONE

TITLE = "All methods over the target alone"
_TITLE_WIDTH = 34  # characters, of a panel with one beside it
_LINE_INCHES = 0.19


@house_style()
def draw(data: MethodsData) -> Drawn:
    """A line for each method that was measured in any run, vanilla first."""
    names = _measured(data.runs)
    if not names:
        return Absent(TITLE, "No method was measured beside the target alone.")
    kinds = list(dict.fromkeys(row.kind for row in names.values()))
    look_of = {kind: look(at + 1) for at, kind in enumerate(kinds)}
    columns = min(2, len(data.runs))
    lines = -(-len(data.runs) // columns)
    figure = new_figure(1.0 + lines * (0.9 + _LINE_INCHES * len(names)))
    panels = grid_of_axes(figure, lines, columns, sharey=True, sharex=True)
    handles: dict[str, object] = {}
    for axes, run, title in zip(panels, data.runs, data.titles, strict=False):
        handles.update(_panel(axes, run, list(names), look_of))
        axes.set_title("\n".join(textwrap.wrap(title, _TITLE_WIDTH)))
    for axes in panels[len(data.runs) :]:
        axes.set_visible(False)
    panels[0].set_yticks(range(len(names)), [short(key) for key in names])
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    legend_below(figure, handles)
    caption = (
        "Geometric mean of the ratios of tokens per second to the target alone in the same services, prompt by prompt, "
        "with its 95 % bootstrap interval. Left of the line is slower than the target alone."
    )
    return Picture("methods", TITLE, caption, figure)


def _measured(runs: Sequence[MethodsRun]) -> Mapping[str, MethodRow]:
    """Rows with a ratio in some run, by key, in the order of the runs' rows."""
    return {
        row.key: row
        for run in runs
        for row in (*run.baselines, *run.rows)
        if row.name != ALONE and standing(run, row).over_alone is not None
    }


def _panel(axes: Axes, run: MethodsRun, names: Sequence[str], look_of: Mapping[str, Look]) -> dict[str, object]:
    handles: dict[str, object] = {}
    for row in (*run.baselines, *run.rows):
        ratio = standing(run, row).over_alone
        if row.key not in names or ratio is None:
            continue
        at, own = names.index(row.key), look_of[row.kind]
        axes.plot((ratio.low, ratio.high), (at, at), color="black", linewidth=1)
        drawn = axes.plot(ratio.middle, at, linestyle="none", marker=own.marker, color=own.colour, label=row.kind)
        handles[row.kind] = drawn[0]
    handles[ALONE] = axes.axvline(1, color="black", linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("speed / target alone (ratio)")
    return handles
