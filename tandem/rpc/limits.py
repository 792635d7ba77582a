"""How many calls a server takes at once. gRPC has such a limit too, but answers without a reason and a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from tandem.rpc.errors import TandemError
from tandem.rpc.handlers import HEALTH, refusing, within

MAX_STREAMS = 1024


class CallLimit:
    """Places for calls. Belongs to one event loop, so that nothing comes between a look and what follows from it."""

    def __init__(self, most: int = MAX_STREAMS) -> None:
        self.most = most
        self.open = 0

    def check(self) -> None:
        """Raises TandemError OVERLOADED where no place is left."""
        if self.open >= self.most:
            raise TandemError.overloaded(
                f"{self.open} calls are open, as many as this server takes (--max-streams)",
                metadata={"limit": "max_streams", "allowed": str(self.most)},
            )

    @contextmanager
    def place(self) -> Iterator[None]:
        """For one call. Raises TandemError OVERLOADED."""
        self.check()
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1


class LimitInterceptor(grpc.aio.ServerInterceptor):
    """Gives every call a place, or refuses it; a question for health is always answered.

    Those who watch the health have places of their own, as many: they take none from callers, and none from them.
    """

    def __init__(self, limit: CallLimit) -> None:
        self._limit = limit
        self._watching = CallLimit(limit.most)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler, method = await continuation(handler_call_details), handler_call_details.method
        if handler is None or method == f"{HEALTH}Check":
            return handler
        limit = self._watching if method.startswith(HEALTH) else self._limit
        try:
            limit.check()
        except TandemError as error:
            return refusing(error)
        return within(handler, limit.place)  # counted once the request is there
