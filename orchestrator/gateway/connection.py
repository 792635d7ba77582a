"""Work for a caller that is there: it ends with its connection, at its deadline, and with the service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.types import Receive

from orchestrator.deadline import DEADLINE
from orchestrator.gateway.errors import CALLER_GONE, HttpError
from tandem.rpc.errors import TandemError

T = TypeVar("T")


class Gate:
    """Whether requests are taken, and whether those under way may go on."""

    def __init__(self) -> None:
        self.is_draining = False
        self._shut = asyncio.Event()

    def drain(self) -> None:
        """Takes no new requests."""
        self.is_draining = True

    def shut(self) -> None:
        """Ends those that are left, with SHUTTING_DOWN."""
        self.is_draining = True
        self._shut.set()

    def check(self) -> None:
        """Raises TandemError SHUTTING_DOWN for a request that comes too late."""
        if self.is_draining:
            raise TandemError.shutting_down()

    async def hold(self, receive: Receive, work: Awaitable[T]) -> T:
        """What `work` returns or raises, for as long as the caller is connected; then it is cancelled at once.

        receive: of a request whose body has been read. Raises HttpError CALLER_GONE, TandemError SHUTTING_DOWN once the
        gate is shut, or DEADLINE_EXCEEDED.
        """
        task = asyncio.ensure_future(work)
        gone, shut = asyncio.ensure_future(_left(receive)), asyncio.ensure_future(self._shut.wait())
        try:
            left = DEADLINE.get().left()
            await asyncio.wait({task, gone, shut}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if gone.done():
                raise HttpError(CALLER_GONE, "the caller has left", code=None)
            raise TandemError.shutting_down() if shut.done() else TandemError.deadline_exceeded()
        finally:
            for each in (task, gone, shut):
                each.cancel()
            # What the work holds is free when this returns.
            await asyncio.wait({task, gone, shut})
            if not task.cancelled():
                task.exception()  # looked at: it lost the race


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
