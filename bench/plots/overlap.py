"""Speed beside what cannot be beaten, as the wire, the draft's cost or its agreement changes."""

from __future__ import annotations

from bench.overlap.curves import Sweep
from bench.plots.looks import looks
from bench.plots.picture import Picture, from_zero, grid_of_axes, house_style, legend_below, new_figure, short

BOUND = "bound: draft and wire for nothing"
# From here on, each doubling of what changes takes the same room; what is below takes as much as one.
_LINEAR_TO = 0.5


@house_style()
def draw(sweep: Sweep) -> Picture:
    """A panel for each pair, all with one scale of speed."""
    figure = new_figure(3.8)
    look = looks(name for panel in sweep.panels for name in panel.speeds)
    handles = {}
    for axes, panel in zip(grid_of_axes(figure, 1, len(sweep.panels), sharey=True), sweep.panels, strict=True):
        for name, points in panel.speeds.items():
            x, y = zip(*points, strict=True)
            (handles[name],) = axes.plot(x, y, label=short(name), **look[name].line)
        x, y = zip(*panel.bounds, strict=True)
        (handles[BOUND],) = axes.plot(x, y, color="black", linestyle="--", linewidth=0.8, label=BOUND)
        if min(x) == 0:
            axes.set_xscale("symlog", base=2, linthresh=_LINEAR_TO)
        if all(abs(each - round(each, 1)) < 1e-9 for each in x):
            axes.set_xticks(x, labels=[f"{each:g}" for each in x])
            axes.minorticks_off()
        axes.set_xlabel(sweep.label)
        axes.set_title(panel.title)
    first = figure.axes[0]
    first.set_ylabel("speed (tokens/s)")
    from_zero(first)
    legend_below(figure, handles, columns=3)
    return Picture(sweep.name, sweep.title, sweep.caption, figure)
