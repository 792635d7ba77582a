"""How the thresholds of adaptive rules move in the course of a completion."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

from bench.plots.forms.decode import DecodeRun, Round
from bench.plots.looks import looks
from bench.plots.picture import (
    Absent,
    Drawn,
    Picture,
    from_zero,
    grid_of_axes,
    house_style,
    legend_below,
    new_figure,
    short,
)

#: Those that are drawn, with what stands on their axis.
AXES: Mapping[str, str] = {
    "entropy": "entropy threshold (nats)",
    "distance": "distance threshold (0 to 1)",
    "lambda": "lambda (0 to 1)",
    "probability": "probability threshold (0 to 1)",
}


@dataclass(frozen=True, slots=True)
class Course:
    """Over completions, by round: the mean and the middle half."""

    rounds: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def course(trace: Sequence[Sequence[Round]], name: str) -> Course:
    """Of the rounds that at least half of the completions have a value for: the few that take longer are others."""
    values: defaultdict[int, list[float]] = defaultdict(list)
    for completion in trace:
        for each in completion:
            if (value := each.thresholds.get(name)) is not None:
                values[each.round].append(value)
    rounds = sorted(number for number, found in values.items() if 2 * len(found) >= len(trace))
    columns = [values[number] for number in rounds]
    return Course(
        rounds,
        [float(np.mean(column)) for column in columns],
        [float(np.quantile(column, 0.25)) for column in columns],
        [float(np.quantile(column, 0.75)) for column in columns],
    )


@house_style()
def draw(run: DecodeRun, which: str) -> Drawn:
    """A panel for each threshold. which: the run, in words."""
    title = f"Thresholds over time, {which}"
    if not any(run.traces.values()):
        return Absent(title, "The run has no traces.")
    courses = {name: {policy: course(trace, name) for policy, trace in run.traces.items()} for name in AXES}
    shown = {name: {p: each for p, each in found.items() if each.rounds} for name, found in courses.items()}
    shown = {name: found for name, found in shown.items() if found}
    if not shown:
        return Absent(title, "No rule that was traced has a threshold that moves.")
    rows = -(-len(shown) // 2)
    figure = new_figure(0.9 + 2.6 * rows)
    panels = grid_of_axes(figure, rows, 2, sharex=True)
    look = looks(run.traces)
    handles = {}
    for axes, (name, found) in zip(panels, shown.items(), strict=False):
        for policy, each in found.items():
            axes.fill_between(each.rounds, each.low, each.high, color=look[policy].colour, alpha=0.15, linewidth=0)
            every = max(1, len(each.rounds) // 8)
            line = {"label": short(policy), "markevery": every, **look[policy].line}
            (handles[policy],) = axes.plot(each.rounds, each.mean, **line)
        axes.set_xlabel("round of the completion (number)")
        axes.set_ylabel(AXES[name])
        from_zero(axes)
        axes.tick_params(labelbottom=True)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels[len(shown) :]:
        axes.remove()
    legend_below(figure, handles)
    caption = (
        "Mean over the completions, with their middle half as a band, of the rounds that at least half of the "
        "completions have a value for."
    )
    return Picture(f"thresholds-{run.temperature:g}", title, caption, figure)
