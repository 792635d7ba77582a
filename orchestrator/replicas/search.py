"""The search of one completion for a target that takes it: at its start, and whenever it has lost the one it had."""

from __future__ import annotations

import asyncio
import copy
import time

from orchestrator.deadline import DEADLINE
from orchestrator.line import Ticket
from orchestrator.replicas.fit import can_take_over, same_model
from orchestrator.replicas.group import Group
from orchestrator.replicas.replica import Replica
from orchestrator.replicas.service import BROKEN
from tandem.rpc.errors import TandemError
from tandem.v1.model_pb2 import ModelInfo

# By so much a completion gives up before its caller does, so that the caller is told why; of a short time by a share.
_MARGIN_SECONDS, _MARGIN_SHARE = 0.25, 0.25
# What has begun goes before all that has not, in waiting for room; priorities lie in [-100, 100].
_BEGUN_FIRST = 1000


class Search:
    """Finds each target that is ready once. One that has failed and answers again may be found again, and where none is
    left one that comes is waited for: both for so many seconds from the first time that something was wrong, and until
    shortly before the caller's deadline. That is one incident; it ends once a target has done what was asked for.

    Where all are full it waits for room. Before a completion has begun, for the timeout and half of the caller's time
    at most: of the rest it is made. One that has begun goes before those that have not.
    """

    def __init__(
        self,
        group: Group,
        timeout: float,
        tried: dict[Replica, int] | None = None,
        *,
        patience: float | None = None,
        priority: int = 0,
    ) -> None:
        """timeout: seconds for a completion that has not begun. patience: for one that has; as timeout if None. tried:
        where others of the request look already, and in which of their lives. priority: in waiting for room."""
        self._group = group
        self._timeout = timeout
        self._patience = timeout if patience is None else patience
        self._tried = dict(tried or {})
        self._found: Replica | None = None
        self._deadline: float | None = None
        self._full: dict[Replica, TandemError] = {}
        self._broken: TandemError | None = None
        self._is_at_fault = False  # the sequence itself, most likely: two targets have failed at it
        self._has_begun = False
        self._priority = priority
        self._ticket: Ticket[None] | None = None  # of this incident
        self._room_deadline = 0.0
        self.model: ModelInfo | None = None

    def keep_to(self, model: ModelInfo) -> None:
        """From now on, only to targets that can carry out what was planned for `model`."""
        self.model = model

    def again(self) -> Search:
        """For another completion of the request, at the same target."""
        other = Search(self._group, self._timeout, self._tried, patience=self._patience, priority=self._priority)
        other.model = self.model
        other._found = self._found
        return other

    def settle(self, model: ModelInfo) -> None:
        """The target that was found last has done what was asked for: the incident, if there was one, is over. model:
        the target's; the text is its from now on, and no other's."""
        if self._deadline is None and self._has_begun:
            return
        self.model, self._has_begun = model, True
        self._deadline = self._broken = self._ticket = None
        self._full.clear()
        self._tried = {each: life for each, life in self._tried.items() if each is self._found}

    def refused(self, error: TandemError) -> None:
        """By the target that was found last, which may also have been lost."""
        self._has_trouble()
        if error.reason == "OVERLOADED" and self._found is not None:
            self._full[self._found] = error
        elif error.reason in BROKEN:
            self._is_at_fault = self._broken is not None
            self._broken = error

    @property
    def left(self) -> float:
        """Seconds that the search may still take."""
        if self._deadline is None:
            return self._bound()
        return self._deadline - time.monotonic()

    async def find(self) -> Replica:
        """Raises TandemError: the targets are full, cannot be reached, or do not fit."""
        if self._is_at_fault and self._broken is not None:
            raise self._told(self._broken)
        replica = self._choose()
        if replica is None:
            with self._group.wanted():
                replica = await self._wait()
        self._tried[replica] = replica.lives
        self._found = replica
        return replica

    def _choose(self) -> Replica | None:
        # An older model is as good as gone for what begins; what has begun with it can only end with it.
        def is_new(replica: Replica) -> bool:  # one that has failed may answer questions, and fail again
            return replica not in self._tried and self._may_take(replica)

        superseded = self._has_begun
        return self._group.choose(is_new, superseded=superseded) or self._group.choose(
            self._may_take, superseded=superseded
        )

    def _may_take(self, replica: Replica) -> bool:
        life = self._tried.get(replica)
        if life == replica.lives or (life is not None and self.left <= 0):
            return False
        return self._fits(replica)

    def _fits(self, replica: Replica) -> bool:
        if self.model is None:
            return True
        fits = same_model if self._has_begun else can_take_over
        return replica.model is not None and fits(self.model, replica.model)

    async def _wait(self) -> Replica:
        self._has_trouble()
        while True:
            change = self._group.change
            if (replica := self._choose()) is not None:
                return replica
            if self._broken is not None:  # nobody waits for another one to try it at
                raise self._told(self._broken)
            if (full := self._first_with_room()) is not None:
                await self._room(full)
                continue
            if (mismatch := self._group.mismatch()) is not None:
                raise copy.copy(mismatch)
            try:
                async with asyncio.timeout(self.left):
                    await change.wait()
            except TimeoutError:
                raise self._problem() from None

    def _told(self, broken: TandemError) -> TandemError:
        """A defect of the targets is no fault of the caller's, and none of the orchestrator's."""
        if broken.reason != "INTERNAL":
            return broken
        return self._group.service.error(f"every {self._group.service.name} service failed: {broken.message}")

    def _first_with_room(self) -> TandemError | None:
        """Of the targets that are full, what the one says that has room first."""
        return min(self._full.values(), key=lambda error: error.retry_after or 0, default=None)

    async def _room(self, full: TandemError) -> None:
        """Returns once one may have room, and all that were full may be found again. Raises `full`."""
        line, again = self._group.full, self._ticket is not None
        if full.metadata.get("limit") == "deadline" or (line.is_crowded and not self._has_begun):
            raise copy.copy(full)
        if self._ticket is None:
            self._ticket = line.ticket(self._priority + _BEGUN_FIRST * self._has_begun)
            left = DEADLINE.get().left()
            patience = self.left if self._has_begun or left is None else min(self.left, left / 2)
            self._room_deadline = time.monotonic() + patience
        try:
            async with asyncio.timeout(self._room_deadline - time.monotonic()):
                await line.wait(self._ticket, lambda: filter(self._fits, self._group.ready), again=again)
        except TimeoutError:
            raise copy.copy(full) from None
        for replica in self._full:
            self._tried.pop(replica, None)
        self._full.clear()

    def _has_trouble(self) -> None:
        if self._deadline is None:
            self._deadline = time.monotonic() + self._bound()

    def _bound(self) -> float:
        seconds = self._patience if self._has_begun else self._timeout
        left = DEADLINE.get().left()
        return seconds if left is None else min(seconds, left - min(_MARGIN_SECONDS, _MARGIN_SHARE * left))

    def _problem(self) -> TandemError:
        if not self._group.ready:
            return self._group.problem()
        name = self._group.service.name
        return self._group.service.error(f"no {name} service that answers has taken the request; try again")
