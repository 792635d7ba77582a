"""A completion as it comes; blocking."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grpc
import tenacity

from tandem.client.answers import Completion, Delta
from tandem.client.errors import explained
from tandem.client.gathering import Gathering
from tandem.client.mirror import mirrored
from tandem.client.retries import Deadline, Retries, settings
from tandem.rpc.errors import TandemError


class Stream:
    """Iterates over the deltas of one completion; made by `Client.stream`.

    The call has begun when this is made, and is cancelled by `close`, by leaving a `with`, and where the object is
    dropped before its end (gRPC sees to that); the services are then free of it. It is begun anew, within its retries,
    only before the first delta. One thread at a time may read; any may close.
    """

    def __init__(
        self, begin: Callable[[float | None], Any], *, endpoint: str, deadline: Deadline, retries: Retries
    ) -> None:
        """begin: makes the call; takes its timeout."""
        self._begin = begin
        self._endpoint = endpoint
        self._deadline = deadline
        self._gathering = Gathering()
        self._closed = threading.Event()
        self._began = False  # whether something was delivered
        self._retrying = tenacity.Retrying(
            **settings(retries, deadline), sleep=tenacity.sleep_using_event(self._closed)
        )
        self._call = begin(deadline.left())

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
            raise TandemError.internal(f"{self._endpoint}: {error}") from error

    def close(self) -> None:
        """Cancels the call where it has not ended. May be called twice."""
        self._closed.set()
        self._call.cancel()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delta:
        """Raises TandemError; StopIteration after the end and after `close`."""
        response = self._read() if self._began else self._first()
        if response is None:
            raise StopIteration
        self._began = True
        delta: Delta = mirrored(response)
        self._gathering.add(delta)
        return delta

    def _first(self) -> Any:
        for attempt in self._retrying:
            with attempt:
                if attempt.retry_state.attempt_number > 1 and not self._closed.is_set():
                    self._call = self._begin(self._deadline.left())
                return self._read()
        raise AssertionError("tenacity ends by a return or by the last error")

    def _read(self) -> Any:
        """The next response; None at the end."""
        if self._closed.is_set():
            self._call.cancel()  # closed while it was begun anew
            return None
        try:
            return next(self._call, None)
        except grpc.RpcError as error:
            if self._closed.is_set():
                return None
            raise explained(error, self._endpoint) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
