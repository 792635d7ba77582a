"""The figures that a run has to reach; those that count are scaled for shorter runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.judging import Verdict
from tests.chaos.run import Result

#: Of a minute: 300 in half an hour.
FAULTS_A_MINUTE = 10
DRAFT_ROUNDS, TARGET_SECONDS = 2.0, 1.0


@dataclass(frozen=True, slots=True)
class Figure:
    """measured: None where there is nothing to measure it by, which is short of any goal. is_judged: always; others
    only where that is asked for, since they depend on who else uses the machine."""

    what: str
    measured: float | None
    goal: float
    at_least: bool = False
    is_judged: bool = True
    note: str = ""

    @property
    def holds(self) -> bool:
        if self.measured is None:
            return False
        return self.measured >= self.goal if self.at_least else self.measured <= self.goal


def figures(result: Result) -> list[Figure]:
    tally, kills, options = result.tally, result.kills, result.options
    if tally is None:
        return []
    wanted = math.floor(FAULTS_A_MINUTE * options.minutes)
    rounds = f"of {len(kills.draft)} streams"
    if kills.round_seconds:
        rounds += f"; a round is {1000 * _median(kills.round_seconds):.0f} ms"
    prefills = f"of {len(kills.target)} streams"
    if kills.prefill_seconds:
        prefills += f"; prefill is {1000 * _median(kills.prefill_seconds):.0f} ms"
    measured = [
        Figure("p99 added by a draft's kill, in rounds", p99(kills.draft), DRAFT_ROUNDS, is_judged=False, note=rounds),
        Figure(
            "p99 added by a target's kill less prefill, s", p99(kills.target), TARGET_SECONDS, is_judged=False,
            note=prefills,
        ),
    ]  # fmt: skip
    return [
        Figure("faults", len(result.history.events), wanted, at_least=True, is_judged=False),
        Figure("wrong texts", tally.count(Verdict.WRONG), 0),
        Figure("texts with lost or duplicated tokens", tally.count(Verdict.LOST, Verdict.DUPLICATED), 0),
        Figure("requests past their deadline by a second", tally.count(Verdict.HUNG), 0),
        Figure("failed though a target was there", tally.count(Verdict.FAILED), 0, is_judged=not options.lenient),
        Figure("failed without a clear reason", tally.count(Verdict.UNCLEAR), 0),
        Figure("leaks", len(result.leaks), 0),
        Figure("defects told by logs", len(result.logged), 0),
        Figure("other problems", len(result.problems), 0),
        *(measured if options.measures_kills else ()),
    ]


def p99(values: Sequence[float]) -> float | None:
    """The largest of fewer than a hundred."""
    if not values:
        return None
    return sorted(values)[max(math.ceil(0.99 * len(values)) - 1, 0)]


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
