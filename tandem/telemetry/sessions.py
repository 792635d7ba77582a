"""What is seen of one stream of the draft or the target: a session with its blocks."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

import grpc

from tandem.rpc.errors import TandemError
from tandem.telemetry.context import bind_request, request_id
from tandem.telemetry.spans import DRAFT_AHEAD, SpanName
from tandem.telemetry.tracing import Span
from tandem.telemetry.upstream import reason_of

_log = logging.getLogger(__name__)


class SessionObserver:
    """Told how sessions end."""

    def session_ended(self, outcome: str) -> None:
        """outcome: `closed` by its caller, or the reason of an error."""

    def session_refused(self, reason: str) -> None:
        """It was not opened."""


class Timing(Protocol):
    """Of the engine or of the contract."""

    @property
    def queue_microseconds(self) -> int: ...
    @property
    def compute_microseconds(self) -> int: ...


class Session:
    """One stream. It counts as a session once it is `opened`, and as refused where it ends before."""

    def __init__(self, observer: SessionObserver, span: Span, block: SpanName, name: str) -> None:
        """span: of the stream. block: name of the spans of its blocks. name: of the request, if nobody has said it."""
        if not request_id():
            bind_request(name)
        self._observer = observer
        self._span = span
        self._block = block
        self._began = time.perf_counter()
        self._is_open = False
        self._blocks = 0

    def opened(self) -> None:
        self._is_open = True

    def block(self) -> Span:
        """Begins a block; to be ended by `end_block`."""
        self._blocks += 1
        return self._span.child(self._block)

    def ahead(self) -> Span:
        """Begins what is drafted before it is asked for; to be ended by `end_ahead`."""
        return self._span.child(DRAFT_AHEAD)

    def generation(self, round_number: int) -> Generation:
        """Around tokens that are made alone; one block."""
        return Generation(self.block(), round_number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A stream that breaks under its handler is one that its caller closed.
        has_failed = isinstance(error, Exception) and not isinstance(error, grpc.aio.BaseError)
        failed = reason_of(error) if has_failed else ""
        if self._is_open:
            self._observer.session_ended(failed or "closed")
        elif failed:
            self._observer.session_refused(failed)
        facts: dict[str, str | int] = {"outcome": failed or "closed", "blocks": self._blocks}
        self._span.set(request_id=request_id(), **facts)
        self._span.end(error=failed)
        if failed and not self._is_open:
            # Not the message, which may quote what was sent.
            field = error.field if isinstance(error, TandemError) else None
            _log.info("refused a session", extra={"reason": failed, **({"field": field} if field else {})})
        elif _log.isEnabledFor(logging.DEBUG):
            _log.debug("a session ended", extra={**facts, "seconds": round(time.perf_counter() - self._began, 6)})


class Generation:
    """Adds up what is made token by token."""

    def __init__(self, span: Span, round_number: int) -> None:
        self._span = span
        self._round = round_number
        self._tokens = 0
        self._queue = self._compute = 0

    def add(self, timing: Timing) -> None:
        """One token more."""
        self._tokens += 1
        self._queue += timing.queue_microseconds
        self._compute += timing.compute_microseconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._span.set(queue_seconds=self._queue / 1e6, compute_seconds=self._compute / 1e6)
        self._span.end(round=self._round, tokens=self._tokens)


def end_block(span: Span, round_number: int, block_tokens: int, timing: Timing) -> None:
    """It has been answered."""
    span.end(
        round=round_number,
        block_tokens=block_tokens,
        queue_seconds=timing.queue_microseconds / 1e6,
        compute_seconds=timing.compute_microseconds / 1e6,
    )


def end_ahead(span: Span, round_number: int, branches: Sequence[int], *, taken: bool) -> None:
    """What became of a block is known. round_number: of that block. branches: candidates of each, that were drafted.
    taken: whether one of these is the next block."""
    if branches:  # a span that has nothing to tell of is never ended, and so never seen
        span.end(round=round_number, branches=len(branches), ahead_tokens=sum(branches), taken=taken)
