"""Speculation is reduced before anybody is refused: the fuller a target, the fewer candidates a round may have.

Verifying candidates that are not kept costs the others at a target their time. While it has room that is a fair price;
where requests begin to wait it is not. So the most candidates of a round are scaled down, under every stop rule, from
where three quarters of a bound are used, to none where nearly all of it is; then the target goes on alone. Lengths are
all that changes: an exact rule stays exact. The bounds are those that the target reports (sessions, those that wait for
their first step, its cache) and the orchestrator's own (`Admission.strain`).

It acts at once and is taken back slowly, and only once the load has clearly fallen: what has just been refused would
otherwise come back to blocks as long as before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from weakref import WeakKeyDictionary

from orchestrator.replicas import Replica
from orchestrator.request import Speculation
from orchestrator.stopping import Limits, RoundOutcome, StopRule

#: Shares of a bound between which blocks are shortened from all to nothing.
BEGINS, ENDS = 0.75, 0.95
# It is taken back where the load would have it lower by so much, and by all of it within so many seconds.
_CLEARLY = 0.1
_RELEASE_SECONDS = 5.0
# Tokens that the target makes alone before it is asked again whether to draft.
_ALONE_TOKENS = 8


def reduction(used: float) -> float:
    """Of the candidates, by the share of a bound that is in use: 0 leaves all, 1 none. Never falls."""
    return min(max((used - BEGINS) / (ENDS - BEGINS), 0.0), 1.0)


def used(replica: Replica) -> float:
    """Of the bound of a target that is nearest to its end; 0 of one that reports none. Its only session does not fill
    it up."""
    if replica.is_full:
        return 1.0
    load = replica.load
    shares = [0.0]
    if load.max_sessions > 1:
        shares.append((replica.sessions - 1) / (load.max_sessions - 1))
    if load.max_queue > 1:
        shares.append(load.queued_sessions / load.max_queue)
    if load.cache_capacity_bytes and replica.sessions > 1:
        shares.append(load.cache_bytes / load.cache_capacity_bytes)
    return max(shares)


class Governor:
    """strain: of the orchestrator, as a share of its bounds. clock: seconds."""

    def __init__(self, strain: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._strain = strain
        self._clock = clock
        self._levels: WeakKeyDictionary[Replica, tuple[float, float]] = WeakKeyDictionary()  # and since when

    def most(self, replica: Replica, wanted: int) -> int:
        """Candidates that a round at a target may have, of `wanted`."""
        return math.ceil(wanted * (1 - self._level(replica)))

    def shed(self, speculation: Speculation, target: Callable[[], Replica]) -> Speculation:
        """The same rules, under this. target: where the completion is at the moment."""
        return replace(speculation, stop=Shed(speculation.stop, lambda wanted: self.most(target(), wanted)))

    def _level(self, replica: Replica) -> float:
        now, wanted = self._clock(), reduction(max(used(replica), self._strain()))
        level, since = self._levels.get(replica, (0.0, now))
        if wanted >= level:
            level, since = wanted, now
        elif wanted <= level - _CLEARLY or wanted == 0:
            level, since = max(wanted, level - (now - since) / _RELEASE_SECONDS), now
        else:
            since = now
        self._levels[replica] = level, since
        return level


class Shed:
    """A stop rule whose blocks may be shortened. is_alone: whether it has just let the target go on alone for that."""

    def __init__(self, rule: StopRule, most: Callable[[int], int]) -> None:
        self.name = rule.name
        self.is_alone = False
        self._rule = rule
        self._most = most

    def limits(self) -> Limits:
        limits = self._rule.limits()
        most = self._most(limits.max_tokens)
        self.is_alone = most == 0 < limits.max_tokens
        if most >= limits.max_tokens:
            return limits
        if self.is_alone:
            return Limits(0, alone_tokens=_ALONE_TOKENS)
        return replace(limits, max_tokens=most, min_tokens=min(limits.min_tokens, most))

    def update(self, outcome: RoundOutcome) -> None:
        self._rule.update(outcome)

    def thresholds(self) -> dict[str, float]:
        return self._rule.thresholds()
