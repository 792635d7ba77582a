"""What a service gives under load: throughput, times to wait, and what the target makes alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib.ticker import MaxNLocator

from bench.plots.forms.serve import Point
from bench.plots.looks import looks
from bench.plots.picture import Drawn, Picture, from_zero, grid_of_axes, house_style, legend_below, new_figure, short

#: How the load of each kind of run is given, and how it comes about.
LOADS: Mapping[str, str] = {"open": "load offered (requests/s)", "closed": "clients at once (number)"}
_HOW: Mapping[str, str] = {
    "open": "Requests come at a rate, whether or not earlier ones are done.",
    "closed": "Each client asks again when its last completion is there.",
}

#: What each panel shows, in pairs: its title, what stands on its axis, and its value.
PANELS: Sequence[tuple[str, str, Callable[[Point], float | None]]] = (
    ("throughput", "throughput (tokens/s)", lambda point: point.tokens_per_second),
    ("made by the target alone", "tokens (share of all)", lambda point: point.plain_share),
    ("time per token, p50", "time per token (ms)", lambda point: point.per_token_ms.p50),
    ("time per token, p95", "time per token (ms)", lambda point: point.per_token_ms.p95),
    ("first token, p50", "first token (ms)", lambda point: point.first_token_ms.p50),
    ("first token, p95", "first token (ms)", lambda point: point.first_token_ms.p95),
)


def draw(points: Sequence[Point]) -> list[Drawn]:
    """A picture for each kind of load."""
    kinds = dict.fromkeys(point.kind for point in points)
    return [_draw(kind, [point for point in points if point.kind == kind]) for kind in kinds]


@house_style()
def _draw(kind: str, points: Sequence[Point]) -> Picture:
    figure = new_figure(7.4)
    by_policy = {
        name: sorted((point for point in points if point.policy == name), key=lambda point: point.load)
        for name in dict.fromkeys(point.policy for point in points)
    }
    look = looks(by_policy)
    handles = {}
    for axes, (title, label, read) in zip(grid_of_axes(figure, 3, 2), PANELS, strict=True):
        for name, curve in by_policy.items():
            drawn = [(point.load, value) for point in curve if (value := read(point)) is not None]
            if drawn:
                x, y = zip(*drawn, strict=True)
                (handles[name],) = axes.plot(x, y, label=short(name), **look[name].line)
        axes.set_xlabel(LOADS[kind])
        axes.set_title(title)
        axes.set_ylabel(label)
        from_zero(axes)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=kind == "closed"))
    legend_below(figure, handles)
    caption = f"{_HOW[kind]} Failed requests have no times; the table counts them."
    return Picture(f"load-{kind}", f"Under load: {kind}", caption, figure)
