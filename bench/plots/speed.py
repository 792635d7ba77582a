"""Speed of each policy over the target alone, with its interval."""

from __future__ import annotations

from functools import cache

from matplotlib.axes import Axes

from bench.intervals import Interval, paired_ratio
from bench.plots.forms.decode import DecodeData, DecodeRun
from bench.plots.looks import Look, looks
from bench.plots.picture import (
    Absent,
    Drawn,
    Picture,
    grid_of_axes,
    house_style,
    legend_below,
    new_figure,
    reach,
    short,
)
from bench.policies import ALONE

TITLE = "Speed over the target alone"
ALL = "all prompts"
_WIDEST = 0.1  # of a bar, as a share of the picture

_cached_ratio = cache(paired_ratio)  # the same ones stand in tables and in several pictures


def speed_ups(run: DecodeRun, dataset: str | None = None) -> dict[str, Interval]:
    """Geometric mean of the paired ratios by policy, of one data set or of all prompts.

    A prompt is left out where one of the two has no speed, as a completion of one token; a policy, where none is left.
    """
    if ALONE not in run.policies:
        return {}
    found = {}
    for name in run.speculating:
        pairs = [
            (ours.tokens_per_second, theirs.tokens_per_second)
            for ours, theirs in zip(run.policies[name], run.policies[ALONE], strict=True)
            if dataset in (None, ours.dataset) and min(ours.tokens_per_second, theirs.tokens_per_second) > 0
        ]
        if pairs:
            ours_speeds, their_speeds = zip(*pairs, strict=True)
            found[name] = _cached_ratio(ours_speeds, their_speeds)
    return found


def places(run: DecodeRun) -> dict[str, str | None]:
    """What bars stand together by: all prompts, and each data set where there are several."""
    completions = next(iter(run.policies.values()), [])
    datasets = list(dict.fromkeys(each.dataset for each in completions))
    return {ALL: None} | ({name: name for name in datasets} if len(datasets) > 1 else {})


@house_style()
def draw(decode: DecodeData) -> Drawn:
    """A panel for each run."""
    if not any(ALONE in run.policies for run in decode.runs):
        return Absent(TITLE, "There is no run of the target alone to compare with.")
    shown = [(title, run) for title, run in zip(decode.titles, decode.runs, strict=True) if speed_ups(run)]
    if not shown:
        return Absent(TITLE, "Nothing but the target alone was run, or no completion has a speed.")
    figure = new_figure(1.2 + 2.6 * len(shown))
    look = looks(name for _, run in shown for name in run.speculating)
    handles = {}
    for axes, (title, run) in zip(grid_of_axes(figure, len(shown), 1, sharey=True), shown, strict=True):
        handles.update(_bars(axes, run, look))
        handles[ALONE] = axes.axhline(1, color="black", linestyle="--", linewidth=1)
        axes.set_title(title)
        axes.set_ylabel("speed / target alone (ratio)")
    legend_below(figure, handles)
    caption = (
        "Geometric mean of the ratios of tokens per second, prompt by prompt, with its 95 % bootstrap interval. "
        "Bars that end below the line are slower than the target alone."
    )
    return Picture("speed", TITLE, caption, figure)


def _bars(axes: Axes, run: DecodeRun, look: dict[str, Look]) -> dict[str, object]:
    """What stands for each policy."""
    handles: dict[str, object] = {}
    names = list(speed_ups(run))
    groups = places(run)
    width = min(0.84 / len(names), _WIDEST * len(groups))
    for at, dataset in enumerate(groups.values()):
        for name, ratio in speed_ups(run, dataset).items():
            x = at + (names.index(name) - (len(names) - 1) / 2) * width
            handles[name] = axes.bar(x, ratio.middle, width, label=short(name), **look[name].bar)
            axes.errorbar(x, ratio.middle, reach(ratio), fmt="none", ecolor="black", elinewidth=1)
    axes.set_xticks(range(len(groups)), [short(name) for name in groups])
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.grid(axis="x", visible=False)
    return handles
