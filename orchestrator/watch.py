"""What is noted of a completion while it is decoded: its rounds in the metrics, its spans in a trace."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from orchestrator.acceptance import Judgement, Position, Source
from orchestrator.look_ahead.tally import Found
from orchestrator.request import Speculation
from tandem.rpc.errors import TandemError
from tandem.telemetry import Telemetry, spans
from tandem.telemetry.sessions import Timing
from tandem.telemetry.spans import SpanName
from tandem.telemetry.tracing import NO_SPAN, Span
from tandem.telemetry.upstream import reason_of
from tandem.v1 import block_pb2, completion_pb2

#: Why the target made tokens alone although speculation was asked for.
NO_DRAFT = "no_draft"
NOT_WORTH = "not_worth"
LATE = "late"
SLOW = "slow"
OVERLOAD = "overload"


@dataclass(frozen=True, slots=True)
class Call:
    """What is said to a service. method: as the metrics have it. span: None for what is part of another."""

    service: str
    method: str
    span: SpanName | None = None


DRAFT_BLOCK = Call("draft", "Draft.round", spans.DRAFT)
DRAFT_ROWS = Call("draft", "Draft.rows", spans.ROWS)
VERIFY_OPEN = Call("target", "Verify.open")
VERIFY_BLOCK = Call("target", "Verify.round", spans.VERIFY)
VERIFY_RESOLVE = Call("target", "Verify.resolve", spans.RESOLVE)
VERIFY_GENERATE = Call("target", "Verify.generate", spans.GENERATE)


class Watch:
    """Of one completion. span: its own, which is ended by `ended`."""

    def __init__(
        self, telemetry: Telemetry, rules: Speculation | None, *, speculates: bool, span: Span = NO_SPAN
    ) -> None:
        """rules: in force; None without speculation. speculates: whether it was asked for."""
        self.telemetry = telemetry
        self.span = span
        policy = (rules.stop.name, rules.accept.name) if rules is not None else ("off", "off")
        self._rounds = telemetry.rounds.of(*policy) if telemetry.is_read else None
        self._speculates = speculates
        self._part = span  # what exchanges happen in

    @contextmanager
    def part(self, name: SpanName, round_number: int) -> Iterator[None]:
        """Around the prefill, or a round with its exchanges."""
        self._part = self.span.child(name)
        try:
            yield
            self._part.end(round=round_number)
        except TandemError as error:
            self._part.end(error=reason_of(error), round=round_number)
            raise
        finally:
            self._part = self.span

    def exchange(self, call: Call) -> Exchange:
        """Around a message and its answer, or its answers."""
        return Exchange(self.telemetry, call, self._part.child(call.span) if call.span is not None else NO_SPAN)

    def received(self, block: block_pb2.Block) -> None:
        """From the draft."""
        if self._rounds is None and not self._part.is_recorded:
            return
        q_bytes = sum(row.ByteSize() for row in block.distributions)
        if self._rounds is not None:
            self._rounds.received(q_bytes)
        size = len(block.token_ids)
        entropy = {"draft_entropy": sum(block.entropies) / size} if size else {}
        self._part.set(block_tokens=size, q_bytes=q_bytes, **entropy)

    def decided(self, block: block_pb2.Block, positions: Sequence[Position], judgement: Judgement) -> None:
        """A block of at least one candidate. positions: of its candidates."""
        self._part.set(accepted_tokens=judgement.kept)
        if self._rounds is None:
            return
        self._rounds.verified(
            drafted=len(positions),
            kept=judgement.kept,
            let_through=judgement.sources.count(Source.LET_THROUGH),
            entropies=block.entropies,
            distances=[position.distance.midpoint for position in positions if position.distance is not None],
        )

    def timed(self, parts: completion_pb2.RoundTime, microseconds: int, *, drafted: int) -> None:
        """A round, or a token that the target made alone, has ended."""
        if self._rounds is not None:
            self._rounds.ended(parts, microseconds / 1e6, drafted=drafted)

    def fetched(self, full_rows: int) -> None:
        if self._rounds is not None:
            self._rounds.fetched(full_rows)

    def foreseen(self, found: Found, *, all_kept: bool) -> None:
        """What was there of the next block when its outcome was known."""
        self._part.set(foreseen=found is Found.HIT)
        if self._rounds is not None:
            self._rounds.foreseen(found, all_kept=all_kept)

    def pushed(self, tokens: int, size: int, stale: int) -> None:
        """By the draft, unasked. tokens: candidates. size: bytes. stale: messages that nobody had use for."""
        if self._rounds is not None:
            self._rounds.pushed(tokens, size, stale)

    def taken(self, tokens: int, hidden_seconds: float) -> None:
        """So many of these are verified, for which nobody had to wait so long."""
        if self._rounds is not None:
            self._rounds.taken(tokens, hidden_seconds)

    def taken_over(self) -> None:
        """By another target, or by the same one after it was lost."""
        self.telemetry.takeovers.inc()

    def alone(self, reason: str, tokens: int) -> None:
        """The target made tokens alone. reason: empty where nothing is lost by that; counted only where speculation was
        asked for."""
        if reason and self._speculates and self._rounds is not None:
            self.telemetry.rounds.fallback(reason, tokens)


class Exchange:
    """One message to a service and its answer, or a stream of them. seconds: until the first one."""

    def __init__(self, telemetry: Telemetry, call: Call, span: Span) -> None:
        self.seconds = 0.0
        self._telemetry = telemetry
        self._call = call
        self._span = span
        self._answers = self._queue = self._compute = 0
        self._is_late = False
        self._began = time.perf_counter()

    def answered(self, timing: Timing) -> None:
        if not self._answers:
            self.seconds = time.perf_counter() - self._began
        self._answers += 1
        self._queue += timing.queue_microseconds
        self._compute += timing.compute_microseconds

    def late(self) -> None:
        """Nobody waits for the answer any longer, though it may still come."""
        self._is_late = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        told, call = self._telemetry, self._call
        failed = ""
        if isinstance(error, TandemError | TimeoutError):  # otherwise the caller has left
            failed = reason_of(error)
            if told.is_read and failed != "deadline_exceeded":  # the caller's: it says nothing of the service
                told.upstream.failed(call.service, failed)
        elif self._is_late:
            failed = LATE
        elif told.is_read and (self._answers or error is None):
            seconds = self.seconds if self._answers else time.perf_counter() - self._began
            told.upstream.answered(call.service, call.method, seconds)
        if self._span.is_recorded:
            if call is VERIFY_GENERATE:
                self._span.set(tokens=self._answers)
            self._span.set(queue_seconds=self._queue / 1e6, compute_seconds=self._compute / 1e6)
            self._span.end(error=failed)
