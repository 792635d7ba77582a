"""What was measured of a draft, as tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from rich.table import Table

from bench.draft.agreement import LENGTHS, Along, summed
from bench.draft.metrics import TIMES, Point, fit
from bench.draft.steps import DRAFTED, Steps
from bench.tables import new_table


def agreement_table(found: Sequence[Along]) -> Table:
    """By file, and of all."""
    columns = [f"{name}, {length}" for name in ("a round, greedy", "at 1") for length in LENGTHS]
    table = new_table("prompts of", "places", "greedy agreement", "1 - TV at 1", *columns)
    names = dict.fromkeys(along.dataset for along in found)
    groups = {name: [along for along in found if along.dataset == name] for name in names}
    for name, alongs in {**groups, "all": found}.items():
        each = summed(alongs)
        rounds = (*each.greedy_rounds, *each.sampled_rounds)
        table.add_row(
            name, str(each.places), f"{each.greedy:.3f}", f"{each.overlap:.3f}",
            *("" if math.isnan(value) else f"{value:.2f}" for value in rounds),
        )  # fmt: skip
    return table


def step_table(steps: Mapping[float, Sequence[Steps]]) -> Table:
    """Medians."""
    table = new_table("a step", "target, ms", f"draft and its drawing, ms (of {DRAFTED})", "over the target's")
    for degree, found in steps.items():
        target, draft, ratio = (
            statistics.median(getattr(each, name) for each in found) for name in ("target", "draft", "ratio")
        )
        table.add_row(f"temperature {degree:g}", f"{target * 1e3:.2f}", f"{draft * 1e3:.2f}", f"{ratio:.3f}")
    return table


def curve_table(curve: Sequence[Point]) -> Table:
    """What the draft's own metrics say of more and less data, with a line through them."""
    table = new_table("tokens of answers", "greedy agreement", "1 - TV at 1")
    for point in curve:
        table.add_row(f"{point.tokens:,}", f"{point.greedy_agreement:.3f}", f"{point.one_minus_tv:.3f}")
    tokens = [point.tokens for point in curve]
    fits = [fit(tokens, [getattr(point, name) for point in curve]) for name in ("greedy_agreement", "one_minus_tv")]
    if all(fits):
        lines = [f"{each.a:.3f} {each.b:+.4f} ln tokens" for each in fits if each is not None]
        table.add_row("a + b ln tokens", *lines)
        predicted = [f"{each.predicted:.3f}" for each in fits if each is not None]
        table.add_row(f"predicted for {TIMES * max(tokens):,}", *predicted)
    return table
