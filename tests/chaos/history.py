"""The faults that have happened, and what they explain."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.chaos.outcomes import Outcome, clock
from tests.chaos.schedule import BURST, HURRY, LEAVE, Fault
from tests.chaos.stage import ORCHESTRATORS, TARGETS, link, links_of

#: Seconds for which what was hit may still be out of use after it is whole again: it is asked again by and by.
SETTLE_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class Event:
    """One fault that happened. ended: when what it hit was whole again; None while it is not. met: kinds of those that
    it coincided with. What follows is counted by the judge."""

    fault: Fault
    began: float = field(default_factory=clock)
    ended: float | None = None
    met: set[str] = field(default_factory=set)
    affected: int = 0
    allowed: int = 0
    wrong: int = 0

    def overlaps(self, began: float, ended: float, settle: float = 0.0) -> bool:
        return self.began < ended and began < (math.inf if self.ended is None else self.ended + settle)

    def end(self) -> None:
        self.ended = clock()

    def __str__(self) -> str:
        with_ = f", with {', '.join(sorted(self.met))}" if self.met else ""
        return f"{self.fault}{with_}"


class History:
    """started: the run's beginning, by `clock`."""

    def __init__(self) -> None:
        self.started = clock()
        self.events: list[Event] = []
        self.skipped: list[Fault] = []

    def begin(self, fault: Fault) -> Event:
        event = Event(fault)
        for other in self.events:
            if other.ended is None:
                other.met.add(f"{fault.kind} {fault.on}")
                event.met.add(f"{other.fault.kind} {other.fault.on}")
        self.events.append(event)
        return event

    def hit(
        self,
        parts: Iterable[str],
        began: float,
        ended: float,
        settle: float = SETTLE_SECONDS,
        *,
        kinds: Sequence[str] = (),
    ) -> bool:
        """Whether anything of `parts`, processes or links, was hit in that time, or had been shortly before. kinds: of
        faults; all where none are named."""
        wanted = set(parts)
        return any(
            wanted.intersection(event.fault.victims)
            and event.overlaps(began, ended, settle)
            and (not kinds or event.fault.kind in kinds)
            for event in self.events
        )

    def excuses(self, outcome: Outcome, settle: float = SETTLE_SECONDS) -> bool:
        """Whether faults explain that a request was not completed: there was no orchestrator that the caller could
        reach and that could reach a target, all three untouched for the whole life of the request. Drafts excuse
        nothing. A caller with one orchestrator has just that one."""
        assert outcome.ended is not None
        began, ended = outcome.began, outcome.ended
        for orchestrator in [outcome.orchestrator] if outcome.orchestrator else ORCHESTRATORS:
            if self.touched(orchestrator, outcome, settle):
                continue
            for target in TARGETS:
                if not self.hit([target, link(orchestrator, target)], began, ended, settle):
                    return False
        return True

    def touched(self, orchestrator: str, outcome: Outcome, settle: float = SETTLE_SECONDS) -> bool:
        """Whether an orchestrator, or the caller's way to it, was hit in the life of a request."""
        assert outcome.ended is not None
        face = "http" if outcome.caller == "http" else "grpc"
        return self.hit([orchestrator, link(face, orchestrator)], outcome.began, outcome.ended, settle)

    def concerning(self, outcome: Outcome, places: Iterable[str]) -> list[Event]:
        """The faults that a request met. places: links on which it was seen."""
        assert outcome.ended is not None
        parts = set(places)
        parts.update(place.partition(">")[2] for place in places)
        for name in [outcome.orchestrator] if outcome.orchestrator else ORCHESTRATORS:
            parts.update([name, *links_of(name)])
        found = []
        for event in self.events:
            if not event.overlaps(outcome.began, outcome.ended, SETTLE_SECONDS):
                continue
            by_callers = {LEAVE: outcome.has_left, HURRY: not outcome.patient, BURST: True}.get(event.fault.kind, False)
            if by_callers or parts.intersection(event.fault.victims):
                found.append(event)
        return found
