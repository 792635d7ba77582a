"""Tandem beside other software: speed over its own target alone, by the number of clients."""

from __future__ import annotations

from collections.abc import Mapping

from bench.intervals import Interval, paired_ratio
from bench.peers.names import tandem_name
from bench.plots.forms.others import Side
from bench.plots.looks import look
from bench.plots.picture import Absent, Drawn, Picture, grid_of_axes, house_style, new_figure, reach, short
from bench.policies import ALONE

TITLE = "Beside other software"
BASE = tandem_name(ALONE)

Sides = Mapping[str, Mapping[str, Side]]


def speed_ups(sides: Sides, clients: str) -> dict[str, Interval]:
    """Geometric mean of the ratios by side, repetition by repetition: they were measured in turn. A side that was not
    measured as often is left out."""
    base = sides.get(BASE, {}).get(clients)
    theirs = base.tokens_per_second if base else []
    found = {}
    for name, counts in sides.items():
        ours = counts[clients].tokens_per_second if clients in counts else []
        if name != BASE and ours and len(ours) == len(theirs) and min(*ours, *theirs) > 0:
            found[name] = paired_ratio(ours, theirs)
    return found


@house_style()
def draw(sides: Sides) -> Drawn:
    """A panel for each number of clients. Sides are named on the axis and differ by their hatch, too."""
    counts = sorted({count for side in sides.values() for count in side}, key=lambda count: (len(count), count))
    measured = {count: found for count in counts if (found := speed_ups(sides, count))}
    if not measured:
        return Absent(TITLE, f"It needs {BASE!r} and another side, measured as often.")
    names = [name for name in sides if any(name in found for found in measured.values())]
    figure = new_figure(0.8 + 0.36 * len(names))
    panels = grid_of_axes(figure, 1, len(measured), sharey=True)
    for axes, (count, found) in zip(panels, measured.items(), strict=True):
        for name, ratio in found.items():
            at = names.index(name)
            axes.barh(at, ratio.middle, 0.7, label=short(name), **look(at).bar)
            axes.errorbar(ratio.middle, at, xerr=reach(ratio), fmt="none", ecolor="black", elinewidth=1)
        axes.axvline(1, color="black", linestyle="--", linewidth=1)
        axes.set_title("1 client" if count == "1" else f"{short(count)} clients")
        axes.set_xlabel(f"speed / {BASE} (ratio)")
        axes.grid(axis="y", visible=False)
    panels[0].set_yticks(range(len(names)), [short(name) for name in names])
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    left_out = ", ".join(name for name in sides if name not in (*names, BASE))
    caption = (
        "Geometric mean of the ratios of tokens per second, repetition by repetition, with its 95 % bootstrap "
        "interval. The dashed line is Tandem's target alone." + (f" Left out: {left_out}." if left_out else "")
    )
    return Picture("peers", TITLE, caption, figure)
