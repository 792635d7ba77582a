"""A stream on which more comes than answers: somebody has to read it all the time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc


class Reading:
    """At work from its construction until `close`, or until the stream ends. What answers is kept for whoever asked;
    one answer at most, so that a service which says more than it is asked fills nobody's memory: it has to wait.

    take: of each message first; whether it was none that answers anything. What it raises is raised to whoever waits
    for an answer, now or later; nothing more is read then.
    """

    def __init__(self, call: grpc.aio.StreamStreamCall, take: Callable[[Any], bool]) -> None:
        self._call = call
        self._take = take
        self._answers: asyncio.Queue[Any] = asyncio.Queue(1)
        self._end: BaseException | None = None
        self._task = asyncio.create_task(self._read())

    async def next(self) -> Any:
        """The next answer; the end of the stream, as often as it is asked for. Raises what reading raised."""
        answer = await self._answers.get()
        if self._task.done():  # it was the last one
            self._answers.put_nowait(answer)
        if answer is not self._end or answer is None:
            return answer
        if isinstance(answer, asyncio.CancelledError):  # the call was cancelled, not whoever waits
            raise asyncio.CancelledError
        raise answer

    def close(self) -> None:
        self._task.cancel()

    async def _read(self) -> None:
        while True:
            try:
                response = await self._call.read()
                if response is not None and response is not grpc.aio.EOF and self._take(response):
                    continue
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    if self._answers.empty():
                        self._end = error
                        self._answers.put_nowait(error)
                    raise
                self._end = error
            except Exception as error:
                self._end = error
            await self._answers.put(response if self._end is None else self._end)
            if self._end is not None or response is grpc.aio.EOF:
                return
