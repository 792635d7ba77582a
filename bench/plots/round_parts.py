"""Where the time of a round goes, and of a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from bench.plots.forms.decode import Completion, DecodeRun
from bench.plots.picture import Absent, Drawn, Picture, grid_of_axes, house_style, legend_below, new_figure, short

#: The parts of RoundTime with how they look: the draft's blue, the target's orange, a hatch for each.
PARTS: Mapping[str, Mapping[str, Any]] = {
    "draft queue": {"facecolor": "#c6dbef", "hatch": "|||"},
    "draft compute": {"facecolor": "#6baed6", "hatch": ""},
    "draft wire": {"facecolor": "#deebf7", "hatch": "////"},
    "target queue": {"facecolor": "#fdd0a2", "hatch": "+++"},
    "target compute": {"facecolor": "#fd8d3c", "hatch": "--"},
    "target wire": {"facecolor": "#feedde", "hatch": "\\\\\\\\"},
    "orchestrator": {"facecolor": "#969696", "hatch": "xxx"},
}


def per_round(completions: Sequence[Completion]) -> dict[str, float]:
    """Milliseconds of each part. A token that the target makes alone is a round without candidates, but for the first,
    which comes with the prompt. Empty where nothing was reported."""
    plain = sum(max(0, each.speculation.plain_tokens - 1) for each in completions)
    return _parts(completions, sum(each.speculation.verify_steps for each in completions) + plain)


def per_token(completions: Sequence[Completion]) -> dict[str, float]:
    """Milliseconds of each part, over all tokens but each completion's first."""
    return _parts(completions, _tokens(completions))


def _tokens(completions: Sequence[Completion]) -> int:
    return sum(each.tokens - 1 for each in completions)


def _parts(completions: Sequence[Completion], count: int) -> dict[str, float]:
    times = [each.speculation.time.rounds for each in completions]
    sums = {part: sum(getattr(time, f"{part.replace(' ', '_')}_microseconds") for time in times) for part in PARTS}
    return {part: value / count / 1e3 for part, value in sums.items()} if count > 0 and any(sums.values()) else {}


@house_style()
def draw(run: DecodeRun, which: str) -> Drawn:
    """Beside each other: of a round, and of a token. which: the run, in words."""
    title = f"Where the time goes, {which}"
    shown = {name: completions for name, completions in run.policies.items() if per_round(completions)}
    if not shown:
        return Absent(title, "The services did not report the parts of their rounds.")
    figure = new_figure(1.3 + 0.34 * len(shown))
    by_round, by_token = grid_of_axes(figure, 1, 2, sharey=True)
    handles = _bars(by_round, {name: per_round(completions) for name, completions in shown.items()})
    _bars(by_token, {name: per_token(completions) for name, completions in shown.items()})
    by_round.set_yticks(range(len(shown)), [short(name) for name in shown])
    by_round.set_ylim(len(shown) - 0.45, -0.55)
    by_round.set_xlabel("mean round (ms)")
    by_token.set_xlabel("mean token (ms)")
    legend_below(figure, handles)
    left_out = [name for name in run.policies if name not in shown]
    caption = (
        "A token that the target makes alone counts as a round without candidates. The first token, which comes with "
        "the prompt, is left out." + (f" Without reported parts: {', '.join(left_out)}." if left_out else "")
    )
    return Picture(f"time-{run.temperature:g}", title, caption, figure)


def _bars(axes: Axes, times: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    handles: dict[str, Any] = {}
    left = [0.0] * len(times)
    for part, look in PARTS.items():
        widths = [parts.get(part, 0.0) for parts in times.values()]
        handles[part] = axes.barh(
            range(len(times)), widths, 0.7, left=left, label=part, edgecolor="black", linewidth=0.5, **look
        )
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.grid(axis="y", visible=False)
    return handles
