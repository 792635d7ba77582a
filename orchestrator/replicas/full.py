"""Waiting for room: all replicas are full, and one that is full now may have room in a moment.

Those who wait stand in a bounded line. Only the first of it looks whether there is room, by asking replicas for their
load: a try would send a prompt for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from orchestrator.line import Line, Ticket
from orchestrator.replicas.replica import Replica

# Between two looks of the one who waits first.
_LOOK_SECONDS = 0.1


class Full:
    """Of one group. most: that may wait."""

    def __init__(self, most: int) -> None:
        self._line: Line[None] = Line(most)
        self._moved = asyncio.Event()  # set once somebody leaves

    @property
    def is_crowded(self) -> bool:
        """Whether nobody more may wait."""
        return self._line.is_full

    def ticket(self, priority: int) -> Ticket[None]:
        """For one completion; it keeps its place however often it comes back."""
        return Ticket(priority, None)

    async def wait(self, ticket: Ticket[None], ready: Callable[[], Iterable[Replica]], *, again: bool) -> None:
        """Until one of those that are ready seems to have room, and nobody waits before. again: the ticket has been
        here before, and there was no room after all."""
        self._line.join(ticket)
        try:
            while True:
                if self._line.first is not ticket:
                    await self._moved.wait()
                    continue
                if again:
                    await asyncio.sleep(_LOOK_SECONDS)
                    await asyncio.gather(*(replica.ask() for replica in ready()))
                if not (replicas := list(ready())) or any(map(has_room, replicas)):
                    return
                again = True
        finally:
            self._line.leave(ticket)
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()


def has_room(replica: Replica) -> bool:
    """As far as it says; one that does not say how much it takes may have."""
    load = replica.load
    has_place = not load.max_sessions or replica.sessions < load.max_sessions
    return has_place and (not load.max_queue or load.queued_sessions < load.max_queue)
