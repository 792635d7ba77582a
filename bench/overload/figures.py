"""The figures: goodput above capacity over goodput at it, how soon a refusal comes, and what is left of speculation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bench.goals import Figure
from bench.intervals import paired_ratio
from bench.overload.points import REFUSED, Point
from bench.overload.run import Measured
from bench.repetition import quartiles, ratios

#: Fewer make no interval that a verdict could rest on.
LEAST_REPETITIONS = 5
SHARE, REFUSAL, SPECULATION = "goodput_share", "refusal_share", "speculation_share"
#: What the goals are about.
AT_CAPACITY, OVERLOADED = 1.0, 3.0

WITHOUT_GOAL: Mapping[str, str] = {
    REFUSAL: "95th percentile of the time until a refusal, as a share of the deadline, at 3 times capacity",
    SPECULATION: "candidates per token at 3 times capacity over those at capacity: what is right depends on the pair",
}


def figures(measured: Measured, repetitions: int) -> Iterable[Figure]:
    by_multiple = {point.multiple: point for point in measured.points}
    at, above = by_multiple.get(AT_CAPACITY), by_multiple.get(OVERLOADED)
    if at is None or above is None:
        yield Figure.skipped(SHARE, f"needs --times {AT_CAPACITY:g} and --times {OVERLOADED:g}")
        return
    yield _share(at, above, repetitions)
    if above.refusal is not None:
        note = f"{above.failures[REFUSED]} of {len(above.counted)} were refused, half of them"
        note += f" within {above.refusal.p50 * 1e3:.1f} ms"
        yield Figure(REFUSAL, above.refusal.p95 / measured.deadline, note=note)
    drafted = above.candidates_per_token, at.candidates_per_token
    if drafted[0] is not None and drafted[1]:
        yield Figure(SPECULATION, drafted[0] / drafted[1], note=f"{drafted[0]:.2f} against {drafted[1]:.2f}")


def _share(at: Point, above: Point, repetitions: int) -> Figure:
    if not min(*at.goodputs, *above.goodputs, 1.0) > 0:
        return Figure.failed(SHARE, "in one of the runs no request ended within its deadline")
    interval = paired_ratio(above.goodputs, at.goodputs)
    if repetitions < LEAST_REPETITIONS:
        why = f"no verdict of fewer than {LEAST_REPETITIONS} repetitions"
        return Figure.skipped(SHARE, why, measured=interval.middle)
    note = f"95 %: {interval.low:.3f} to {interval.high:.3f}; {repetitions} repetitions"
    return Figure(SHARE, interval.middle, quartiles(ratios(above.goodputs, at.goodputs)), note, interval=interval)
