"""What a run of policies gave, as tables."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from bench.decode.run import Sums
from bench.intervals import Interval, geometric_mean, paired_ratio
from bench.policies import ALONE, DRAFT_ALONE, VANILLA
from bench.tables import new_table

Results = Mapping[str, Sums]

#: Parts of RoundTime, as tables and pictures have them.
PARTS = (
    "draft_queue", "draft_compute", "draft_wire", "target_queue", "target_compute", "target_wire", "orchestrator",
)  # fmt: skip


def policy_table(results: Results) -> Table:
    """Acceptance of each policy, and its speed over the target alone and over vanilla, with 95 % intervals."""
    table = new_table(
        "policy", "mean acceptance length", "acceptance rate", "drafted", "wasted a token", "let through",
        "tokens/s", "over target alone", "over vanilla",
    )  # fmt: skip
    for name, sums in results.items():
        speculates = name not in (ALONE, DRAFT_ALONE)
        columns = [
            f"{sums.acceptance_length:.2f}", f"{sums.acceptance_rate:.1%}", str(sums.drafted), f"{sums.wasted:.2f}",
            str(sums.lossy_tokens),
        ]  # fmt: skip
        table.add_row(
            name,
            *(columns if speculates else [""] * len(columns)),
            f"{geometric_mean(sums.speeds):.1f}",
            "1" if name == ALONE else str(speed_over(results, name, ALONE)),
            "" if VANILLA not in results else "1" if name == VANILLA else str(speed_over(results, name, VANILLA)),
        )
    return table


def dataset_table(results: Results) -> Table:
    """Speed over the target alone, data set by data set."""
    datasets = list(dict.fromkeys(done.prompt.dataset for done in results[ALONE].done))
    table = new_table("over target alone", *datasets)
    for name in results:
        if name != ALONE:
            table.add_row(name, *(str(speed_over(results, name, ALONE, dataset)) for dataset in datasets))
    return table


def round_table(results: Results) -> Table:
    """Where the time of a round goes (of a token, for the target alone), milliseconds."""
    table = new_table("ms a round", *(part.replace("_", " ") for part in PARTS), "all but compute (median)", "compute")
    for name, sums in results.items():
        times = (f"{sums.part(part):.2f}" for part in PARTS)
        table.add_row(name, *times, f"{sums.other_milliseconds:.2f}", f"{sums.efficiency:.1%}")
    return table


def speed_over(results: Results, name: str, other: str, dataset: str | None = None) -> Interval:
    """Geometric mean of the paired ratios of speeds."""
    ours, theirs = results[name], results[other]
    if dataset is not None:
        ours, theirs = ours.of(dataset), theirs.of(dataset)
    return paired_ratio(ours.speeds, theirs.speeds)
