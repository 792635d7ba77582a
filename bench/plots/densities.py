"""Entropies and distances of accepted and of rejected tokens, as the paper of AdaSD (arXiv 2512.11280) shows them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from bench.plots.fates import Fates, density, distances, entropies
from bench.plots.forms.decode import DecodeRun, Round
from bench.plots.picture import Absent, Drawn, Picture, grid_of_axes, house_style, legend_below, new_figure, short

_COLUMNS = 3
_POINTS = 120
_AXIS = 0.995  # share of the values that the axis holds, where nothing else bounds it
_ACCEPTED: Mapping[str, Any] = {"color": "#0072B2", "linestyle": "-"}
_REJECTED: Mapping[str, Any] = {"color": "#D55E00", "linestyle": (0, (4, 1.5))}
_THRESHOLD: Mapping[str, Any] = {"color": "black", "linestyle": (0, (1, 1.2)), "linewidth": 1.2}
_CAPTION = (
    "Kernel density estimates (Gaussian, Silverman's bandwidth, mirrored at the ends). Rejected is the first rejected "
    "token of a round; those behind it were never decided and count for neither. In brackets: how many of each. The "
    "axis ends where nearly all values do."
)


def draw_entropies(run: DecodeRun, which: str) -> Drawn:
    """H(q) of the candidates. which: the run, in words."""
    title = f"Entropies of accepted and rejected tokens, {which}"
    return _draw(run, entropies, "entropies", title, "H(q) (nats)", "density (1/nat)", None)


def draw_distances(run: DecodeRun, which: str) -> Drawn:
    """The Jensen-Shannon distance of p and q. which: the run, in words."""
    title = f"Distances of accepted and rejected tokens, {which}"
    unit = "density (1/unit)"
    return _draw(run, distances, "distances", title, "Jensen-Shannon distance (0 to 1)", unit, 1.0)


@house_style()
def _draw(
    run: DecodeRun,
    read: Callable[[Sequence[Sequence[Round]]], Fates],
    name: str,
    title: str,
    x_label: str,
    y_label: str,
    high: float | None,
) -> Drawn:
    """A panel for each policy. high: the largest value that can be."""
    if not any(run.traces.values()):
        return Absent(title, "The run has no traces.")
    fates = {policy: read(trace) for policy, trace in run.traces.items()}
    shown = {policy: each for policy, each in fates.items() if len({*each.accepted, *each.rejected}) > 1}
    if not shown:
        return Absent(title, f"The traces hold no {name} of accepted or rejected tokens.")
    end = high or float(np.quantile([v for each in shown.values() for v in each.accepted + each.rejected], _AXIS))
    rows = -(-len(shown) // _COLUMNS)
    figure = new_figure(0.7 + 2.1 * rows)
    panels = grid_of_axes(figure, rows, _COLUMNS, sharex=True)
    handles: dict[str, Any] = {}
    for at, (axes, (policy, each)) in enumerate(zip(panels, shown.items(), strict=False)):
        handles.update(_panel(axes, each, end, high))
        axes.set_title(f"{short(policy)} ({len(each.accepted)}, {len(each.rejected)})", fontsize="small")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label if at % _COLUMNS == 0 else "")
        axes.set_xlim(0, end)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelbottom=True)
    for axes in panels[len(shown) :]:
        axes.remove()
    legend_below(figure, handles)
    return Picture(f"{name}-{run.temperature:g}", title, _CAPTION, figure)


def _panel(axes: Axes, fates: Fates, end: float, high: float | None) -> dict[str, Any]:
    """A group without two values that differ has no density."""
    at = np.linspace(0, end, _POINTS)
    handles: dict[str, Any] = {}
    for label, samples, look in (("accepted", fates.accepted, _ACCEPTED), ("rejected", fates.rejected, _REJECTED)):
        if len(set(samples)) > 1:
            heights = density(samples, at, high)
            (handles[label],) = axes.plot(at, heights, label=label, **look)
    if fates.thresholds:
        mean = statistics.fmean(fates.thresholds)
        handles["mean threshold"] = axes.axvline(mean, label="mean threshold", **_THRESHOLD)
    return handles
