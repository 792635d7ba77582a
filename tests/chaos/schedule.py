"""What goes wrong and when, drawn from a seed: single faults, common pairs of them, and rolling restarts.

The same seed, minutes and kind of load give the same schedule. When a fault really happens may lie later: a process
that is still coming up is not killed again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.chaos.stage import DRAFTS, ORCHESTRATORS, TARGETS, links_of

#: Kinds of faults, as tables name them.
KILL, STOP, DRAIN, ROLLING = "kill", "stop", "drain", "rolling"
DELAY, THROTTLE, STALL, BLACKHOLE, CUT, HALF_CLOSE, REFUSE = (
    "delay", "throttle", "stall", "blackhole", "cut", "half-close", "refuse",
)  # fmt: skip
LEAVE, HURRY, BURST = "leave", "hurry", "burst"
ON_PROCESSES, ON_CALLERS = (KILL, STOP, DRAIN), (LEAVE, HURRY, BURST)
AT_ONCE = (CUT, HALF_CLOSE)
ON_LINKS = (DELAY, THROTTLE, STALL, BLACKHOLE, CUT, HALF_CLOSE, REFUSE)

# Seconds between the beginnings of two episodes, in the mean and at least.
_MEAN_SECONDS, _LEAST_SECONDS = 2.8, 0.6
# Of the time in which both targets may be hit at once.
_HARSH_SHARE, _PHASE_SECONDS = 0.2, 45.0
_LONGEST_STOP, _SHORTEST_STOP = 20.0, 0.1
# A rolling restart takes about so long, and comes so often.
ROLLING_SECONDS, ROLLING_EVERY_SECONDS = 60.0, 420.0


@dataclass(frozen=True, slots=True)
class Fault:
    """at: seconds from the start. victims: processes, or links; none for callers. seconds: that it lasts; of a kill or
    a drain, until the process is started again. amount: of the kind: seconds of delay, bytes a second, callers.
    is_harsh: it may take the last target."""

    at: float
    kind: str
    victims: tuple[str, ...]
    seconds: float
    amount: float = 0.0
    is_harsh: bool = False

    @property
    def on(self) -> str:
        """What is hit, for tables: `target`, `link to a draft`, `callers`."""
        if not self.victims:
            return "callers"
        caller, arrow, service = self.victims[0].partition(">")
        kind = (service or caller).rstrip("0123456789")
        return f"link to {kind}" if arrow else kind

    def __str__(self) -> str:
        victims = "+".join(self.victims) or "callers"
        return f"{self.kind} {victims} for {self.seconds:.1f} s"


def schedule(seed: int, seconds: float) -> list[Fault]:
    """In order of time."""
    source = random.Random(seed)
    found: list[Fault] = []
    at, next_rolling = _LEAST_SECONDS, ROLLING_EVERY_SECONDS / 2
    while at < seconds:
        if at > next_rolling and at + ROLLING_SECONDS < seconds:
            found += _rolling(at)
            at, next_rolling = at + ROLLING_SECONDS, at + ROLLING_EVERY_SECONDS
            continue
        is_harsh = (at / _PHASE_SECONDS) % 1 > 1 - _HARSH_SHARE
        episode = source.choices([_single, _pair], [0.7, 0.3])[0](source, at, is_harsh)
        found += [fault for fault in episode if fault.at < seconds]
        at += _LEAST_SECONDS + source.expovariate(1 / (_MEAN_SECONDS - _LEAST_SECONDS))
    return sorted(found, key=lambda fault: fault.at)


def _single(source: random.Random, at: float, is_harsh: bool) -> Iterator[Fault]:
    # Links the most: a process that has ended takes seconds of everybody's processor to come back.
    make = source.choices([_process_fault, _link_fault, _callers_fault], [0.35, 0.5, 0.15])[0]
    yield make(source, at, is_harsh)


def _pair(source: random.Random, at: float, is_harsh: bool) -> Iterator[Fault]:
    """Two that come together in the field: a machine that takes a draft and a target with it, a stop in the middle of a
    drain's hand-over, a network that fails while load doubles."""
    first, second = source.choice(_PAIRS)
    yield first(source, at, is_harsh)
    yield second(source, at + source.uniform(0.0, 1.0), is_harsh)


def _rolling(at: float) -> Iterator[Fault]:
    for name in (*DRAFTS, *TARGETS, *ORCHESTRATORS):
        yield Fault(at, ROLLING, (name,), 0.0)


def _of(kind: str, services: tuple[str, ...]) -> Callable[[random.Random, float, bool], Fault]:
    def make(source: random.Random, at: float, is_harsh: bool) -> Fault:
        return _on_process(source, at, is_harsh, kind, source.choice(services))

    return make


def _process_fault(source: random.Random, at: float, is_harsh: bool) -> Fault:
    kind = source.choices(ON_PROCESSES, [0.35, 0.45, 0.2])[0]
    services = source.choices([DRAFTS, TARGETS, ORCHESTRATORS], [0.4, 0.4, 0.2])[0]
    return _on_process(source, at, is_harsh, kind, source.choice(services))


def _on_process(source: random.Random, at: float, is_harsh: bool, kind: str, name: str) -> Fault:
    if kind == STOP:
        span = math.log(_LONGEST_STOP / _SHORTEST_STOP)
        seconds = _SHORTEST_STOP * math.exp(source.uniform(0, span))
    else:
        seconds = source.uniform(0.1, 3.0)
    return Fault(at, kind, (name,), seconds, is_harsh=is_harsh)


def _link_fault(source: random.Random, at: float, is_harsh: bool) -> Fault:
    kind = source.choice(ON_LINKS)
    service = source.choice(
        source.choices([DRAFTS, TARGETS, ORCHESTRATORS], [0.4, 0.45, 0.15])[0]
    )
    links = links_of(service)
    victims = tuple(links) if source.random() < 0.4 else (source.choice(links),)
    amount = {DELAY: source.uniform(0.005, 0.3), THROTTLE: source.uniform(2e3, 50e3)}.get(kind, 0.0)
    seconds = 0.0 if kind in AT_ONCE else source.uniform(0.5, 8.0)
    return Fault(at, kind, victims, seconds, amount, is_harsh)


def _callers_fault(source: random.Random, at: float, is_harsh: bool) -> Fault:
    kind = source.choice(ON_CALLERS)
    if kind == BURST:
        return Fault(at, kind, (), source.uniform(2.0, 5.0), is_harsh=is_harsh)
    return Fault(at, kind, (), 0.0, source.randint(1, 4), is_harsh)


_PAIRS = (
    (_of(KILL, TARGETS), _of(KILL, DRAFTS)),
    (_of(KILL, TARGETS), _of(STOP, TARGETS)),
    (_of(STOP, TARGETS), _of(STOP, DRAFTS)),
    (_of(KILL, DRAFTS), _of(STOP, DRAFTS)),
    (_of(DRAIN, TARGETS), _of(KILL, DRAFTS)),
    (_of(KILL, ORCHESTRATORS), _of(KILL, TARGETS)),
    (_of(STOP, TARGETS), _callers_fault),
    (_of(KILL, TARGETS), _link_fault),
    (_of(KILL, DRAFTS), _link_fault),
    (_link_fault, _link_fault),
    (_link_fault, _callers_fault),
)
