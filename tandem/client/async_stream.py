"""A completion as it comes, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import grpc
import tenacity

from tandem.client.answers import Completion, Delta
from tandem.client.errors import explained
from tandem.client.gathering import Gathering
from tandem.client.mirror import mirrored
from tandem.client.retries import Deadline, Retries, settings
from tandem.rpc.errors import UNSPECIFIED, TandemError


class AsyncStream:
    """Iterates over the deltas of one completion; made by `AsyncClient.stream`.

    As Stream: the call has begun, and is cancelled by `close`, by leaving an `async with`, where the task that reads it
    is cancelled, and where the object is dropped. One task at a time may read.
    """

    def __init__(
        self, begin: Callable[[float | None], Any], *, endpoint: str, deadline: Deadline, retries: Retries
    ) -> None:
        """begin: makes the call; takes its timeout."""
        self._begin = begin
        self._endpoint = endpoint
        self._deadline = deadline
        self._gathering = Gathering()
        self._closed = False
        self._began = False  # whether something was delivered
        self._retrying = tenacity.AsyncRetrying(**settings(retries, deadline))
        self._call = begin(deadline.left())

    @property
    def text(self) -> str:
        """Of the first choice, so far."""
        return self._gathering.text()

    async def result(self) -> Completion:
        """Reads what is left and returns the whole. Raises TandemError."""
        async for _ in self:
            pass
        try:
            return self._gathering.completion()
        except ValueError as error:
            if self._closed:
                raise ValueError("the stream was closed before its end") from error
            raise TandemError.internal(f"{self._endpoint}: {error}") from error

    async def close(self) -> None:
        """Cancels the call where it has not ended. May be called twice."""
        self._closed = True
        self._call.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        """Raises TandemError; StopAsyncIteration after the end and after `close`."""
        response = await (self._read() if self._began else self._first())
        if response is None:
            raise StopAsyncIteration
        self._began = True
        delta: Delta = mirrored(response)
        self._gathering.add(delta)
        return delta

    async def _first(self) -> Any:
        async for attempt in self._retrying:
            with attempt:
                if attempt.retry_state.attempt_number > 1 and not self._closed:
                    self._call = self._begin(self._deadline.left())
                return await self._read()
        raise AssertionError("tenacity ends by a return or by the last error")

    async def _read(self) -> Any:
        """The next response; None at the end."""
        if self._closed:
            return None
        try:
            response = await self._call.read()
        except grpc.RpcError as error:
            raise explained(error, self._endpoint) from error
        except asyncio.CancelledError:
            # Also what gRPC makes of a call that the other side cancelled.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            if self._closed:
                return None
            raise TandemError(
                UNSPECIFIED, f"{self._endpoint}: the call was cancelled", code=grpc.StatusCode.CANCELLED
            ) from None
        return None if response is grpc.aio.EOF else response

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        if hasattr(self, "_call"):
            with suppress(RuntimeError):  # its event loop is gone, and the call with it
                self._call.cancel()
