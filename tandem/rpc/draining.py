"""Open calls of a server that drains: each ends with a word, SHUTTING_DOWN, which sends its caller to another replica.

What gRPC itself does at the end of the grace period tells a caller nothing: a call is cut off as if the network had
failed. And all at once: whoever goes on elsewhere has a text to be computed anew, and all of these meet there. So calls
are handed over one after another, those that have been open for longest first, spread over a part of the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from tandem.rpc.errors import TandemError
from tandem.rpc.handlers import HEALTH

Handler: TypeAlias = grpc.RpcMethodHandler

_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
# Before the end of the time, for the last words to be sent; a fifth of a short one.
_LAST_SECONDS = 0.5
# For those who watch the health to be told of it; a fifth of a short time.
_TOLD_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class HandOver:
    """When calls are ended that are still open, as shares of the grace period: the first, and the last."""

    first: float = 1.0
    last: float = 1.0


#: All that is left at the end: a caller's own completion has nowhere to go on by itself.
AT_THE_END = HandOver()


class OpenCalls:
    """Of one server. Belongs to one event loop. A call has a task of its own: cancelling it ends the call."""

    def __init__(self) -> None:
        self._calls: dict[asyncio.Task[Any], bool] = {}  # the oldest first; whether it has been ended here
        self._watching: dict[asyncio.Task[Any], bool] = {}  # the health
        self._is_closed = False

    @asynccontextmanager
    async def call(self, context: grpc.aio.ServicerContext, *, watches: bool) -> AsyncIterator[None]:
        """Around all of one call. watches: whether it is a stream that only watches the health."""
        if self._is_closed and not watches:
            await context.abort_with_status(TandemError.shutting_down().to_status())
        task, calls = asyncio.current_task(), self._watching if watches else self._calls
        assert task is not None
        calls[task] = False
        try:
            yield
        except asyncio.CancelledError:
            if not calls[task]:  # the caller has left
                raise
            task.uncancel()
            try:
                await context.abort_with_status(TandemError.shutting_down().to_status())
            except grpc.aio.UsageError as ended:  # just before, by itself
                raise asyncio.CancelledError from ended
        finally:
            del calls[task]

    async def close(self, grace_seconds: float) -> None:
        """From now on calls are told to go elsewhere. Returns after a moment in which those who watch the health have
        heard of it: a call that comes just when a server stops is cut off by gRPC without a word."""
        self._is_closed = True
        await asyncio.sleep(min(_TOLD_SECONDS, grace_seconds / 5))

    def open(self) -> None:
        """Calls are taken again."""
        self._is_closed = False

    async def hand_over(self, grace_seconds: float, plan: HandOver) -> None:
        """Ends all calls within the time, as planned; those who watch the health at once. Returns when none is left."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        ends = began + max(0.0, grace_seconds - min(_LAST_SECONDS, grace_seconds / 5))
        first, last = (min(began + share * grace_seconds, ends) for share in (plan.first, plan.last))
        _end(self._watching, list(self._watching))
        await asyncio.sleep(first - loop.time())
        while waiting := [task for task, ended in self._calls.items() if not ended]:
            left = last - loop.time()
            _end(self._calls, waiting if left <= 0 else waiting[:1])
            # One that ends by itself meanwhile leaves the others more time.
            await asyncio.sleep(max(left, 0) / len(waiting))


def _end(calls: dict[asyncio.Task[Any], bool], tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        if not calls[task]:
            calls[task] = True
            task.cancel()


class DrainInterceptor(grpc.aio.ServerInterceptor):
    """Notes every call in `calls`. Stands outside of what makes statuses of errors."""

    def __init__(self, calls: OpenCalls) -> None:
        self._calls = calls

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler, method = await continuation(handler_call_details), handler_call_details.method
        if handler is None:
            return None
        if method == f"{HEALTH}Check":
            return handler
        kind = next(name for name in _KINDS if getattr(handler, name) is not None)
        behavior, watches = getattr(handler, kind), method == f"{HEALTH}Watch"

        async def noted(request: Any, context: grpc.aio.ServicerContext) -> Any:
            async with self._calls.call(context, watches=watches):
                return await behavior(request, context)

        return handler._replace(**{kind: noted})
