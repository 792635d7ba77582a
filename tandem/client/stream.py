"""A completion as it comes; blocking."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grpc
import tenacity

from tandem.client.answers import Completion, Delta
from tandem.client.course import Course
from tandem.client.errors import explained
from tandem.client.gathering import Gathering
from tandem.client.mirror import mirrored
from tandem.rpc.errors import TandemError
from tandem.v1 import completion_pb2

#: Makes the call of a request to an endpoint, with a timeout.
Begin = Callable[[str, completion_pb2.CompleteRequest, float | None], Any]


class Stream:
    """Iterates over the deltas of one completion; made by `Client.stream`.

    The call has begun when this is made, and is cancelled by `close`, by leaving a `with`, and where the object is
    dropped before its end (gRPC sees to that); the services are then free of it. It is begun anew, within its retries,
    before the first delta, and afterwards where it is to be resumed: then its deltas go on where they were. One thread
    at a time may read; any may close.
    """

    def __init__(self, begin: Begin, course: Course) -> None:
        self._begin = begin
        self._course = course
        self._gathering = Gathering()
        self._closed = threading.Event()
        self._call = self._begun()

    @property
    def text(self) -> str:
        """Of the first choice, so far."""
        return self._gathering.text()

    def result(self) -> Completion:
        """Reads what is left and returns the whole. Raises TandemError."""
        for _ in self:
            pass
        try:
            return self._gathering.completion()
        except ValueError as error:
            if self._closed.is_set():
                raise ValueError("the stream was closed before its end") from error
            raise TandemError.internal(f"{self._course.endpoint}: {error}") from error

    def close(self) -> None:
        """Cancels the call where it has not ended. May be called twice."""
        self._closed.set()
        self._call.cancel()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delta:
        """Raises TandemError; StopIteration after the end and after `close`."""
        response = self.next_response()
        if response is None:
            raise StopIteration
        delta: Delta = mirrored(response)
        self._gathering.add(delta)
        return delta

    def next_response(self) -> completion_pb2.CompleteResponse | None:
        """The next delta as the message that it was; None at the end and after `close`. Raises TandemError."""
        while True:
            try:
                response = self._read()
            except TandemError as error:
                if not self._course.may_go_on(error):
                    raise
                response = self._go_on(error)
            if response is None or self._course.is_new(response):
                return response

    def _go_on(self, error: TandemError) -> completion_pb2.CompleteResponse | None:
        """The next response, of a call that is begun anew. error: of the last one."""
        retrying = tenacity.Retrying(**self._course.settings(), sleep=tenacity.sleep_using_event(self._closed))
        for attempt in retrying:
            with attempt:
                if attempt.retry_state.attempt_number == 1:
                    raise error
                if not self._closed.is_set():
                    self._call = self._begun()
                return self._read()
        raise AssertionError("tenacity ends by a return or by the last error")

    def _begun(self) -> Any:
        return self._begin(self._course.endpoint, self._course.begin(), self._course.deadline.left())

    def _read(self) -> completion_pb2.CompleteResponse | None:
        """The next response; None at the end."""
        if self._closed.is_set():
            self._call.cancel()  # closed while it was begun anew
            return None
        try:
            return next(self._call, None)  # type: ignore[no-any-return]
        except grpc.RpcError as error:
            if self._closed.is_set() or self._course.is_over:
                return None
            raise self._course.failed(explained(error, self._course.endpoint)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
