"""How a stream really ended, where writing to it failed.

A service may refuse a stream while the next message is on its way. grpc.aio then fails the write and puts an INTERNAL
error of its own in the place of the status that the service sent, before that has come or after
(https://github.com/grpc/grpc/issues/36066).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import grpc

# What grpc.aio says when a batch of operations failed; nothing else tells it from a service's INTERNAL.
_OWN_DETAILS = "Internal error from Core"
# A status that has not come by then was never sent.
_PATIENCE_SECONDS = 2.0


class Ending:
    """Notes the status that a call's service ends it with."""

    def __init__(self, call: grpc.aio.Call) -> None:
        self._error: grpc.aio.AioRpcError | None = None
        self._known = asyncio.Event()
        self._unended: Any = None
        call.add_done_callback(self._note)

    async def behind(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """What made a write fail with `error`: the service's status where it sent one, else `error` itself."""
        if not _is_own(error):
            return error
        try:
            await asyncio.wait_for(self._known.wait(), _PATIENCE_SECONDS)
        except TimeoutError:
            return error
        assert self._error is not None
        return self._error

    def close(self) -> None:
        """To be called once the call has been cancelled; ends it where that has done nothing.

        The true status comes behind the answers before it. Where these are never read, gRPC waits for it as long as the
        connection lives, and holds the call and a task; to grpc.aio it is over, and cancelling it does nothing.
        """
        if self._unended is not None:
            self._unended.cancel("nobody reads what is left of it")

    def _note(self, call: grpc.aio.Call) -> None:
        # Called with each status that the call is given; all of these are there and do not wait.
        code, details = _now(call.code()), _now(call.details())
        if code is grpc.StatusCode.OK:  # to a message that was still to be answered, it is gone all the same
            code, details = grpc.StatusCode.UNAVAILABLE, "the service ended the stream"
        error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), _now(call.trailing_metadata()), details)
        if _is_own(error):
            # Nothing public reaches it. What stands for a call that its interceptors still have has none.
            self._unended = getattr(call, "_cython_call", None)
        else:
            self._unended = None
            self._error = error
            self._known.set()


def _is_own(error: grpc.aio.AioRpcError) -> bool:
    return error.code() is grpc.StatusCode.INTERNAL and error.details() == _OWN_DETAILS


def _now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise RuntimeError("the status of a call that is done is not there")
