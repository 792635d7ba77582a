"""Results as tables."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.box import MARKDOWN
from rich.table import Table

from bench.decode import ALONE, Sums
from bench.goals import Row
from bench.wire import Exchange

if TYPE_CHECKING:
    from bench.rig_figures import RigFigures  # with torch

_RESAMPLES = 2000


def policy_table(results: Mapping[str, Sums]) -> Table:
    """Acceptance of each policy, and its speed against the target alone with a 95 % bootstrap interval."""
    table = _table(
        "policy", "mean acceptance length", "acceptance rate", "drafted", "let through",
        "tokens/s", "speed / target alone",
    )  # fmt: skip
    for name, sums in results.items():
        speculates = name != ALONE
        low, middle, high = _ratio(sums.speeds, results[ALONE].speeds)
        table.add_row(
            name,
            f"{sums.acceptance_length:.2f}",
            f"{sums.acceptance_rate:.1%}" if speculates else "",
            str(sums.drafted) if speculates else "",
            str(sums.lossy_tokens) if speculates else "",
            f"{_geometric_mean(sums.speeds):.1f}",
            f"{middle:.2f} ({low:.2f} to {high:.2f})" if speculates else "1",
        )
    return table


def round_table(results: Mapping[str, Sums]) -> Table:
    """Where the time of a round goes (of a token, for the target alone)."""
    table = _table("policy", "draft compute, ms", "target compute, ms", "everything else, ms (median)")
    for name, sums in results.items():
        table.add_row(
            name,
            f"{sums.draft_milliseconds:.1f}",
            f"{sums.target_milliseconds:.1f}",
            f"{sums.other_milliseconds:.2f}",
        )
    return table


def rig_table(results: Sequence[RigFigures]) -> Table:
    """A rig's models beside the one that they are made of."""
    table = _table("model", "dtype", "parameters", "agreement", "a step, ms", "over the base model's")
    for row in results:
        agreement = f"{row.agreement:.3f} of {row.positions}"
        parameters = f"{row.parameters / 1e6:.0f} M"
        table.add_row(row.name, row.dtype, parameters, agreement, f"{row.milliseconds:.1f}", f"{row.step:.2f}")
    return table


def wire_table(results: Mapping[str, Exchange]) -> Table:
    """One exchange, by what the server does between messages."""
    table = _table("the server", "to server, ms", "thread to loop, ms", "to client, ms", "together, ms")
    for name, cost in results.items():
        columns = (cost.to_server, cost.thread_to_loop, cost.to_client, cost.total)
        table.add_row(name, *(f"{value:.2f}" for value in columns))
    return table


def goals_table(rows: Iterable[Row]) -> Table:
    """Figures beside their goals; what each one is stands in goals.toml."""
    table = _table("figure", "measured", "middle half", "goal", "verdict")
    table.add_column("made of")
    for row in rows:
        figure = row.figure
        table.add_row(
            figure.name,
            "" if figure.measured is None else f"{figure.measured:.3f}",
            f"{figure.spread[0]:.3f} to {figure.spread[1]:.3f}" if figure.spread else "",
            str(row.goal) if row.goal else "none",
            row.verdict.value,
            figure.note if row.goal else f"{figure.note} ({row.what})",
        )
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=MARKDOWN)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of the paired ratios between the 2.5 and 97.5 % points of its bootstrap distribution."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    choices = random.Random(0)
    means = sorted(_geometric_mean(choices.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES))
    edge = round(_RESAMPLES * 0.025)
    return means[edge], _geometric_mean(ratios), means[-edge - 1]


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(value) for value in values) / len(values))
