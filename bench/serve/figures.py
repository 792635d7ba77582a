"""The figures that have goals, made of the sweep."""

from __future__ import annotations

from collections.abc import Iterable

from bench.goals import Figure
from bench.repetition import quartiles
from bench.serve.compare import Ratio, Sweep
from bench.serve.loops import Load

#: Fewer make no interval that a verdict could rest on.
LEAST_REPETITIONS = 5
_CLIENTS = (1, 8)


def figures(sweeps: Iterable[Sweep], repetitions: int) -> list[Figure]:
    """All figures of this bench, those that were not measured as skipped."""
    by_load = {sweep.load: sweep for sweep in sweeps}
    found = []
    for clients in _CLIENTS:
        over_best, over_none = f"goodput_over_best_fixed_{clients}", f"goodput_over_none_{clients}"
        sweep = by_load.get(Load(clients=clients))
        if sweep is None:
            why = f"it takes --sweep, and goodput with {Load(clients=clients)}"
            found += [Figure.skipped(over_best, why), Figure.skipped(over_none, why)]
            continue
        found.append(_figure(over_best, sweep.over_best, repetitions, f"the best is {sweep.best}"))
        found.append(_figure(over_none, sweep.over_alone, repetitions, ""))
    return found


def _figure(name: str, ratio: Ratio | None, repetitions: int, made_of: str) -> Figure:
    if ratio is None:
        return Figure.failed(name, "no tokens came in one of the runs")
    if repetitions < LEAST_REPETITIONS or ratio.interval is None:
        why = f"no verdict of fewer than {LEAST_REPETITIONS} repetitions"
        return Figure.skipped(name, "; ".join(filter(None, (why, made_of))), measured=ratio.middle)
    interval = ratio.interval
    note = f"95 %: {interval.low:.3f} to {interval.high:.3f}"
    return Figure(
        name, ratio.middle, quartiles(ratio.values), "; ".join(filter(None, (note, made_of))), interval=interval
    )
