"""Counts what became of the requests, and of each fault what it did to them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.chaos.history import History
from tests.chaos.judging import Judgement, Verdict, judge
from tests.chaos.links import Links
from tests.chaos.outcomes import Outcome

#: Of bad requests, told in full.
MOST_TOLD = 20


@dataclass(slots=True)
class Tally:
    """bad: requests that did not end as they should, in words. codes: what failed with which status, allowed or not.
    lenient: a request that failed although a target was there is counted, and not held against the services."""

    history: History
    links: Links
    lenient: bool = False
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    callers: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    compared: int = 0
    bad: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        judgement = judge(outcome, self.history)
        good = judgement.verdict.is_good or (self.lenient and judgement.verdict is Verdict.FAILED)
        self.verdicts[judgement.verdict] += 1
        self.callers[outcome.caller] += 1
        self.tokens += outcome.tokens
        self.compared += outcome.work.has_answer and bool(outcome.choices)
        if outcome.failure is not None:
            self.codes[f"{outcome.failure.code} {outcome.failure.reason}"] += 1
        seen = self.links.seen.pop(outcome.name, [])
        events = self.history.concerning(outcome, [link for _, link in seen])
        for event in events:
            event.affected += 1
            event.allowed += judgement.verdict is Verdict.ALLOWED
            event.wrong += not good
        if not good:
            self.bad.append(self._told(outcome, judgement, seen))

    @property
    def requests(self) -> int:
        return self.verdicts.total()

    def count(self, *verdicts: Verdict) -> int:
        return sum(self.verdicts[verdict] for verdict in verdicts)

    def _told(self, outcome: Outcome, judgement: Judgement, seen: list[tuple[float, str]]) -> str:
        assert outcome.ended is not None
        since = self.history.started
        lines = [
            f"{judgement.verdict}: {outcome.name} ({outcome.work.kind}; {outcome.caller} {outcome.orchestrator})"
            f" from {outcome.began - since:.2f} to {outcome.ended - since:.2f} s, {outcome.tokens} tokens:"
            f" {judgement.why}"
        ]
        if outcome.failure is not None and outcome.failure.message not in judgement.why:
            lines.append(f"  it ended with {outcome.failure.code} {outcome.failure.reason}: {outcome.failure.message}")
        lines += [f"  at {when - since:.2f} s over {link}" for when, link in seen]
        for event in self.history.events:
            if event.overlaps(outcome.began, outcome.ended, 5.0):
                end = "now" if event.ended is None else f"{event.ended - since:.2f}"
                lines.append(f"  meanwhile, {event.began - since:.2f} to {end} s: {event}")
        return "\n".join(lines)
