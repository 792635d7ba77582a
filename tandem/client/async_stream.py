"""A completion as it comes, for asyncio."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import grpc
import tenacity

from tandem.client.answers import Completion, Delta
from tandem.client.course import Course
from tandem.client.errors import explained
from tandem.client.gathering import Gathering
from tandem.client.mirror import mirrored
from tandem.client.stream import Begin
from tandem.rpc.errors import UNSPECIFIED, TandemError
from tandem.v1 import completion_pb2


class AsyncStream:
    """Iterates over the deltas of one completion; made by `AsyncClient.stream`.

    As Stream: the call has begun, and is cancelled by `close`, by leaving an `async with`, where the task that reads it
    is cancelled, and where the object is dropped. One task at a time may read.
    """

    def __init__(self, begin: Begin, course: Course) -> None:
        self._begin = begin
        self._course = course
        self._gathering = Gathering()
        self._closed = False
        self._call = self._begun()

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
            raise TandemError.internal(f"{self._course.endpoint}: {error}") from error

    async def close(self) -> None:
        """Cancels the call where it has not ended. May be called twice."""
        self._closed = True
        self._call.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        """Raises TandemError; StopAsyncIteration after the end and after `close`."""
        response = await self.next_response()
        if response is None:
            raise StopAsyncIteration
        delta: Delta = mirrored(response)
        self._gathering.add(delta)
        return delta

    async def next_response(self) -> completion_pb2.CompleteResponse | None:
        """The next delta as the message that it was; None at the end and after `close`. Raises TandemError."""
        while True:
            try:
                response = await self._read()
            except TandemError as error:
                if not self._course.may_go_on(error):
                    raise
                response = await self._go_on(error)
            if response is None or self._course.is_new(response):
                return response

    async def _go_on(self, error: TandemError) -> completion_pb2.CompleteResponse | None:
        """The next response, of a call that is begun anew. error: of the last one."""
        async for attempt in tenacity.AsyncRetrying(**self._course.settings()):
            with attempt:
                if attempt.retry_state.attempt_number == 1:
                    raise error
                if not self._closed:
                    self._call = self._begun()
                return await self._read()
        raise AssertionError("tenacity ends by a return or by the last error")

    def _begun(self) -> Any:
        return self._begin(self._course.endpoint, self._course.begin(), self._course.deadline.left())

    async def _read(self) -> completion_pb2.CompleteResponse | None:
        """The next response; None at the end."""
        if self._closed:
            return None
        try:
            response = await self._call.read()
        except grpc.RpcError as error:
            if self._course.is_over:
                return None
            raise self._course.failed(explained(error, self._course.endpoint)) from error
        except asyncio.CancelledError:
            # Also what gRPC makes of a call that the other side cancelled.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            if self._closed or self._course.is_over:
                return None
            told = f"{self._course.endpoint}: the call was cancelled"
            raise self._course.failed(TandemError(UNSPECIFIED, told, code=grpc.StatusCode.CANCELLED)) from None
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
