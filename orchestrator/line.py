"""A bounded line of those who wait: the larger priority first, among equals who came first."""

from __future__ import annotations

import asyncio
import bisect
import itertools
from typing import Generic, TypeVar

T = TypeVar("T")

_numbers = itertools.count()


class Ticket(Generic[T]):
    """A place in a line. what: it is for. A call of `admit` or `refuse` lets it go."""

    def __init__(self, priority: int, what: T) -> None:
        self.rank = -priority, next(_numbers)
        self.what = what
        self._decided: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait(self) -> None:
        """Until it is admitted. Raises what it is refused with."""
        await self._decided

    @property
    def is_decided(self) -> bool:
        return self._decided.done()

    def admit(self) -> None:
        if not self._decided.done():
            self._decided.set_result(None)

    def refuse(self, error: Exception) -> None:
        if not self._decided.done():
            self._decided.set_exception(error)


class Line(Generic[T]):
    """Belongs to one event loop. most: that may wait."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._tickets: list[Ticket[T]] = []

    def __len__(self) -> int:
        return len(self._tickets)

    @property
    def is_full(self) -> bool:
        return len(self._tickets) >= self.most

    @property
    def first(self) -> Ticket[T] | None:
        return self._tickets[0] if self._tickets else None

    @property
    def last(self) -> Ticket[T] | None:
        return self._tickets[-1] if self._tickets else None

    def before(self, priority: int) -> int:
        """How many a newcomer of that priority would find before itself."""
        return bisect.bisect_right(self._tickets, -priority, key=lambda ticket: ticket.rank[0])

    def join(self, ticket: Ticket[T]) -> None:
        """One that has waited before comes back to where it was. The line may not be full."""
        bisect.insort(self._tickets, ticket, key=lambda ticket: ticket.rank)

    def leave(self, ticket: Ticket[T]) -> None:
        """May be called at any time, also twice."""
        if ticket in self._tickets:
            self._tickets.remove(ticket)
