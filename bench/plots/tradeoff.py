"""Speed against quality: what a policy gains, and what it costs in the text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from matplotlib.axes import Axes

from bench.intervals import Interval
from bench.plots.forms.decode import DecodeRun
from bench.plots.forms.others import Measures, QualityRun
from bench.plots.labels import label_points
from bench.plots.looks import looks
from bench.plots.picture import Absent, Drawn, Picture, house_style, new_figure, reach, short
from bench.plots.speed import speed_ups
from bench.policies import ALONE, DRAFT_ALONE

TITLE = "Speed against quality"
LIKELIHOOD = "negative log-likelihood"

#: Measures that are drawn, with what stands on their axis.
AXES: Mapping[str, str] = {
    LIKELIHOOD: "negative log-likelihood less that of the target alone\n(nats per token; lower is better)",
    "gsm8k exact answer": "gsm8k exact answer\n(share of prompts; higher is better)",
    "humaneval pass@1": "humaneval pass@1\n(share of problems; higher is better)",
}

_NOTES = (
    "A policy whose upright interval crosses the level line does not differ from it by more than noise.",
    "Upright intervals are those of each policy by itself; the table has the differences, prompt by prompt.",
)


def draw(quality: QualityRun, runs: Iterable[DecodeRun]) -> list[Drawn]:
    """A picture for each measure. runs: of the same pair; the first one at the same temperature is taken."""
    same = (run for run in runs if run.temperature == quality.temperature)
    speeds = next((found for found in map(speed_ups, same) if found), None)
    if speeds is None:
        why = (
            "It needs a document of `bench decode`, of the same pair at temperature "
            f"{quality.temperature:g} and with the target alone."
        )
        return [Absent(TITLE, why)]
    shown = {measure: points for measure in AXES if (points := _points(quality, speeds, measure))}
    if not shown:
        return [Absent(TITLE, "No policy has both a speed and a measure of quality.")]
    return [_draw(measure, quality.temperature, points) for measure, points in shown.items()]


def _points(
    quality: QualityRun, speeds: Mapping[str, Interval], measure: str
) -> dict[str, tuple[Interval, Interval]]:
    """Speed and quality by policy; empty where the target alone would be the only one. The draft alone is no policy to
    choose, and so far from the others that they would be one spot."""
    points = {}
    for name, measures in quality.policies.items():
        if name == DRAFT_ALONE:
            continue
        speed = Interval(1, 1, 1) if name == ALONE else speeds.get(name)
        value = _value(measures, measure, name)
        if speed is not None and value is not None:
            points[name] = (speed, value)
    return points if set(points) - {ALONE} else {}


def _value(measures: Measures, measure: str, name: str) -> Interval | None:
    found = measures.measures.get(measure)
    if found is None:
        return None
    if measure != LIKELIHOOD:
        return found.interval
    return Interval(0, 0, 0) if name == ALONE else found.against_alone


@house_style()
def _draw(measure: str, temperature: float, points: Mapping[str, tuple[Interval, Interval]]) -> Picture:
    figure = new_figure(4.8)
    axes = figure.subplots()
    look = looks(points)
    for name, (speed, value) in points.items():
        axes.errorbar(
            speed.middle, value.middle,
            xerr=reach(speed), yerr=reach(value), fmt=look[name].marker, color=look[name].colour,
            markeredgecolor="black", markersize=7, elinewidth=0.9, label=short(name),
        )  # fmt: skip
    axes.axvline(1, color="black", linestyle="--", linewidth=0.8)
    if ALONE in points:
        axes.axhline(points[ALONE][1].middle, color="black", linestyle="--", linewidth=0.8)
    axes.set_xlabel("speed / target alone (ratio; higher is better)")
    axes.set_ylabel(AXES[measure])
    _name(axes, points, share=measure != LIKELIHOOD)
    caption = f"Both with their 95 % intervals. The dashed lines are the target alone. {_NOTES[measure != LIKELIHOOD]}"
    name = f"tradeoff-{measure.replace(' ', '-').replace('@', '')}-{temperature:g}"
    return Picture(name, f"{TITLE}: {measure}, temperature {temperature:g}", caption, figure)


def _name(axes: Axes, points: Mapping[str, tuple[Interval, Interval]], *, share: bool) -> None:
    axes.margins(0.12, 0.2)
    if share:  # no room for what cannot be
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, -0.08), min(top, 1.08))
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    ends: list[tuple[tuple[float, float], ...]] = [((1, bottom), (1, top))]
    if ALONE in points:
        ends.append(((left, points[ALONE][1].middle), (right, points[ALONE][1].middle)))
    ends += [
        line
        for speed, value in points.values()
        for line in (
            ((speed.low, value.middle), (speed.high, value.middle)),
            ((speed.middle, value.low), (speed.middle, value.high)),
        )
    ]
    label_points(axes, {name: (speed.middle, value.middle) for name, (speed, value) in points.items()}, ends)
