"""The figures of `bench draft`, from what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from bench.decode.run import Sums
from bench.decode.tables import speed_over
from bench.draft.agreement import Along, summed
from bench.draft.parts import GREEDY, OVERLAP, SPEEDS, STEP
from bench.draft.steps import Steps
from bench.goals import Figure
from bench.intervals import geometric_mean
from bench.policies import ALONE
from bench.repetition import quartiles, ratios


def agreement_figures(found: Sequence[Along]) -> Iterable[Figure]:
    """Over all places of all files; the spread is that of the prompts."""
    total = summed(found)
    note = f"{total.places} places of {len(found)} prompts"
    yield Figure(GREEDY, total.greedy, quartiles([statistics.fmean(along.matches) for along in found]), note)
    note = f"{sum(len(along.overlaps) for along in found)} places of {len(found)} prompts"
    yield Figure(OVERLAP, total.overlap, quartiles([statistics.fmean(along.overlaps) for along in found]), note)


def step_figure(steps: Mapping[float, Sequence[Steps]]) -> Figure:
    """Of the temperature at which a step with its drawing takes longest."""
    medians = {degree: statistics.median(each.ratio for each in found) for degree, found in steps.items()}
    worst = max(medians, key=medians.__getitem__)
    found = steps[worst]
    draft, target = (statistics.median(getattr(each, side) for each in found) * 1e3 for side in ("draft", "target"))
    note = f"{draft:.2f} ms against {target:.1f} ms, temperature {worst:g}; " + ", ".join(
        f"{ratio:.3f} at {degree:g}" for degree, ratio in medians.items()
    )
    return Figure(STEP, medians[worst], quartiles([each.ratio for each in found]), note)


def best_policy(results: Mapping[str, Sums]) -> str:
    """The fastest that speculates."""
    return max((name for name in results if name != ALONE), key=lambda name: geometric_mean(results[name].speeds))


def speed_figures(measured: Mapping[float, Mapping[str, Sums]]) -> Iterable[Figure]:
    """measured: results by temperature. The spread is that of the prompts; the note has the interval of 95 %, which
    decides nothing here."""
    for degree, results in measured.items():
        best = best_policy(results)
        ratio = speed_over(results, best, ALONE)
        ours, alone = (results[name].speeds for name in (best, ALONE))
        speeds = f"{geometric_mean(ours):.1f} tokens/s against {geometric_mean(alone):.1f}"
        note = f"{best}: {speeds}, 95 % {ratio.low:.3f} to {ratio.high:.3f}"
        yield Figure(SPEEDS[degree], ratio.middle, quartiles(ratios(ours, alone)), note)
