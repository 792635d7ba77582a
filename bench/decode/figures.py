"""The figures of `bench decode` that have goals, and the pairs that they are measured on."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from bench.decode.run import Sums
from bench.decode.tables import speed_over
from bench.goals import Figure
from bench.pair import Pair
from bench.policies import ADASD, ALONE, VANILLA

Results = Mapping[str, Sums]

WIDE = "rig:wide-3"
FULL_DRAFT = Pair(WIDE, "rig:noise-0.05")
INT4_DRAFT = Pair(WIDE, "rig:noise-0.05", draft_weights="int4")
NOISIER_DRAFT = Pair(WIDE, "rig:noise-0.1")
SMALL_DRAFT = Pair(WIDE, "embedded:smollm2-draft")
DEFAULT = Pair()

#: What `--check` measures where no pair is named.
GOAL_PAIRS: Sequence[Pair] = (INT4_DRAFT, FULL_DRAFT, NOISIER_DRAFT, SMALL_DRAFT, DEFAULT)
#: The policies that the goals are about.
GOAL_POLICIES = (ALONE, VANILLA, ADASD)


def figures(measured: Mapping[Pair, Results]) -> Iterable[Figure]:
    """All figures, at temperature 0; those whose pair or policy was not measured are skipped, with the reason."""
    yield _ratio("adasd_over_alone_int4", measured, INT4_DRAFT, ADASD, ALONE)
    yield _ratio("adasd_over_alone_bf16", measured, FULL_DRAFT, ADASD, ALONE)
    over_vanilla = [
        _mean_over_datasets(measured[pair], ADASD, VANILLA)
        for pair in (FULL_DRAFT, NOISIER_DRAFT, SMALL_DRAFT)
        if pair in measured and {ADASD, VANILLA} <= measured[pair].keys()
    ]
    for name, choose in (("adasd_over_vanilla_best", max), ("adasd_over_vanilla_least", min)):
        if len(over_vanilla) < 3:
            yield Figure.skipped(name, f"needs {ADASD} and {VANILLA} with three drafts of {WIDE}")
        else:
            drafts = "noise .05, .10, 4 layers: "
            yield Figure(name, choose(over_vanilla), note=drafts + ", ".join(f"{ratio:.2f}" for ratio in over_vanilla))
    yield _efficiency("compute_share_rig", measured, FULL_DRAFT)
    yield _efficiency("compute_share_default", measured, DEFAULT)


def _ratio(name: str, measured: Mapping[Pair, Results], pair: Pair, ours: str, theirs: str) -> Figure:
    results = measured.get(pair)
    if results is None or not {ours, theirs} <= results.keys():
        return Figure.skipped(name, f"needs {ours} and {theirs} with {pair}")
    ratio = speed_over(results, ours, theirs)
    speeds = (statistics.median(results[side].speeds) for side in (ours, theirs))
    return Figure(name, ratio.middle, (ratio.low, ratio.high), "{:.1f} tokens/s against {:.1f}".format(*speeds))


def _mean_over_datasets(results: Results, ours: str, theirs: str) -> float:
    datasets = {done.prompt.dataset for done in results[ours].done}
    return statistics.fmean(speed_over(results, ours, theirs, dataset).middle for dataset in datasets)


def _efficiency(name: str, measured: Mapping[Pair, Results], pair: Pair) -> Figure:
    results = measured.get(pair)
    if results is None or ADASD not in results:
        return Figure.skipped(name, f"needs {ADASD} with {pair}")
    shares = [done.efficiency for done in results[ADASD].done]
    note = f"all else {results[ADASD].other_milliseconds:.2f} ms a round"
    return Figure(name, statistics.median(shares), (min(shares), max(shares)), note)
