"""How often the candidate at each position of a block is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from matplotlib.ticker import MaxNLocator

from bench.plots.forms.decode import Completion, DecodeData
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

TITLE = "Acceptance by position"


def rates(completions: Sequence[Completion]) -> list[float]:
    """Share of all verifications in which candidate i was accepted; blocks that were shorter count, too."""
    steps = sum(each.speculation.verify_steps for each in completions)
    columns = zip_longest(*(each.speculation.accepted_at for each in completions), fillvalue=0)
    return [sum(column) / steps for column in columns] if steps else []


@house_style()
def draw(decode: DecodeData) -> Drawn:
    """A panel for each run, up to the first position at which nothing was accepted any more."""
    runs = zip(decode.titles, decode.runs, strict=True)
    shown = [(title, run) for title, run in runs if any(map(rates, run.policies.values()))]
    if not shown:
        return Absent(TITLE, "No policy verified a block.")
    figure = new_figure(1.2 + 2.9 * len(shown))
    look = looks(name for _, run in shown for name in run.policies)
    handles = {}
    every = [rates(completions) for _, run in shown for completions in run.policies.values()]
    last = max((at for found in every for at, rate in enumerate(found, start=1) if rate > 0), default=1)
    for axes, (title, run) in zip(grid_of_axes(figure, len(shown), 1, sharex=True), shown, strict=True):
        for name, completions in run.policies.items():
            if found := rates(completions):
                (handles[name],) = axes.plot(range(1, len(found) + 1), found, label=short(name), **look[name].line)
        from_zero(axes)
        axes.set_xlim(0.5, last + 1.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelbottom=True)
        axes.set_title(title)
        axes.set_xlabel("position in the block (1 is the first candidate)")
        axes.set_ylabel("accepted (share of verifications)")
    legend_below(figure, handles)
    caption = (
        "Verifications in which the candidate at this position was accepted, over all verifications. A rule that "
        "drafts fewer candidates falls sooner, also where those that it drafts are all accepted; the sum over the "
        "positions and 1 is the mean acceptance length."
    )
    return Picture("positions", TITLE, caption, figure)
