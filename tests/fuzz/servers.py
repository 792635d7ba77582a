"""Drafts and targets that answer anything: true services in the same process, whose answers are disturbed.

An orchestrator has a true one and a hostile one of each, or a hostile one alone. The text of one who behaves is right,
or its completion fails with a fair status; with a lossless rule and a true target it never fails.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from draft_service.server import DraftServicer
from orchestrator.answers import (
    MalformedAnswerError,
    check_ahead,
    check_branch,
    check_drafted,
    check_generated,
    check_resolved,
    check_rows,
    check_verified,
)
from orchestrator.look_ahead.foreseen import Base, Foreseen
from tandem.rpc.errors import CODES, DOMAIN
from tandem.v1 import draft_pb2, target_pb2
from target_service.server import TargetServicer
from tests.fuzz.seeded import disturbed, message, torn
from tests.support.foreseeing import ForeseeingDraft


@dataclass
class Hostility:
    """What a hostile service does. share: of its answers that are disturbed. lies: whether also by what could be true.
    silent: whether it may also say nothing any more. messages: answers, all of them. done: how often and how they were
    disturbed."""

    drawn: random.Random
    share: float = 0.2
    lies: bool = False
    silent: bool = False
    messages: int = 0
    done: Counter[str] = field(default_factory=Counter)

    async def answers(
        self, kind: type, true: AsyncGenerator[Any], asked: list[Any], context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[Any]:
        """The true answers to what was asked, disturbed now and then."""
        async with aclosing(true):
            async for answer in true:
                self.messages += 1
                if self.drawn.random() >= self._share_of(kind, answer):
                    yield answer
                    continue
                async with aclosing(self._disturbed(kind, answer, asked, context)) as others:
                    async for other in others:
                        yield other

    def _share_of(self, kind: type, answer: Any) -> float:
        """What a draft says of its model when it opens is for its operator: no request is served with one that does not
        fit. A target of another model is believed, and not used for a while."""
        if not answer.HasField("opened"):
            return self.share
        return 0.0 if kind is draft_pb2.DraftResponse else self.share / 20

    def fact(self, true: Any) -> Any:
        """What it says of its model or its load."""
        if self.drawn.random() >= self.share / 20:
            return true
        self.done["fact"] += 1
        return torn(self.drawn, true.SerializeToString()) if self.drawn.random() < 0.2 else disturbed(self.drawn, true)

    async def _disturbed(
        self, kind: type, answer: Any, asked: list[Any], context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[Any]:
        drawn = self.drawn
        does = drawn.choices(
            ("field", "bytes", "random", "twice", "unasked", "end", "status", "silence"),
            (12, 1, 1, 1, 1, 1, 2, 0.3 if self.silent else 0),
        )[0]
        self.done[does] += 1
        match does:
            case "field":
                yield self._other(answer, asked)
            case "bytes":
                yield torn(drawn, answer.SerializeToString())
            case "random":
                yield message(drawn, kind)
            case "twice":
                yield answer
                yield answer
            case "unasked":
                for _ in range(drawn.choice((1, 50))):
                    yield message(drawn, kind)
                yield answer
            case "end":
                await context.abort(drawn.choice(list(grpc.StatusCode)[1:]), drawn.choice(("", "x" * 900, "\u00e9\n")))
            case "status":
                await context.abort_with_status(any_status(drawn))
            case _:
                await asyncio.Event().wait()

    def _other(self, answer: Any, asked: list[Any]) -> Any:
        """With other fields; where nothing is to be said that could be true, only what can be told from it."""
        for _ in range(50):
            other = disturbed(self.drawn, answer)
            if self.lies or not could_be_true(asked, other):
                return other
        return type(answer)()


def any_status(drawn: random.Random) -> grpc.Status:
    """An error with details of any kind."""
    # One that says that it does not fit is left alone for half a minute: now and then only.
    known = [reason for reason in CODES if "MISMATCH" not in reason or drawn.random() < 0.05]
    reason = drawn.choice([*known, "NO_SUCH_REASON", "", "not a reason", "X" * 500])
    status = status_pb2.Status(code=drawn.randrange(1, 17), message="an error that somebody made up")
    details: list[Any] = [
        error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata={f"k{i}": "v" * 50 for i in range(12)}),
        error_details_pb2.RetryInfo(),
        error_details_pb2.BadRequest(
            field_violations=[{"field": drawn.choice(("open.x", "round.block", "resolve.rows[0]", ""))}]
        ),
    ]
    details[1].retry_delay.seconds = drawn.choice((0, 1, -5, 2**62, -(2**62)))
    details[1].retry_delay.nanos = drawn.choice((0, -1, 2**31 - 1))
    for detail in drawn.sample(details, drawn.randint(1, 3)):
        packed = AnyMessage()
        packed.Pack(detail)
        if drawn.random() < 0.1:
            packed.value = torn(drawn, packed.value)
        status.details.append(packed)
    return rpc_status.to_status(status)


def could_be_true(asked: list[Any], answer: Any) -> bool:
    """Whether the orchestrator takes an answer to the last of what was asked."""
    opening, last, kind = asked[0].open, asked[-1], answer.WhichOneof("kind")
    said = last.WhichOneof("kind")
    expected = {
        "open": "opened", "round": "verified" if hasattr(answer, "verified") else "block", "rows": "rows",
        "resolve": "resolved", "generate": "generated", "taken": "ahead",
    }[said]  # fmt: skip
    if kind == "ahead":
        return _could_be_ahead(opening, getattr(last, said), answer.ahead)
    if kind != expected:
        return False
    request, found = getattr(last, said), getattr(answer, kind)
    checks: dict[str, Callable[[], None]] = {
        "opened": lambda: None,
        "block": lambda: check_drafted(opening, request, found),
        "rows": lambda: check_rows(opening, request, found),
        "verified": lambda: check_verified(opening, request, found),
        "resolved": lambda: check_resolved(request, found),
        "generated": lambda: _check_generated(opening, request, found),
    }
    try:
        checks[kind]()
    except MalformedAnswerError:
        return False
    return True


def _could_be_ahead(opening: draft_pb2.DraftOpen, asked: Any, found: draft_pb2.DraftedAhead) -> bool:
    """asked: a round or what was taken; of others it is not known what they follow."""
    if not hasattr(asked, "look_ahead"):
        return True
    continuation = asked.continuation
    most = asked.used if isinstance(asked, draft_pb2.DraftTaken) else asked.limits.max_tokens
    position = continuation.position + len(continuation.token_ids)
    foreseen, base = Foreseen(), Base(asked.round, position, most, asked.look_ahead)
    foreseen.begin(base)
    try:
        check_ahead(foreseen, found)
        for branch in found.branches:
            check_branch(opening, base, branch)
    except MalformedAnswerError:
        return False
    return True


def _check_generated(
    opening: target_pb2.VerifyOpen, asked: target_pb2.Generate, found: target_pb2.GeneratedToken
) -> None:
    before = found.position - asked.continuation.position - len(asked.continuation.token_ids)
    if not 0 <= before < asked.max_tokens:
        raise MalformedAnswerError("it is for another position")
    # What it says of its end is looked at by the orchestrator, which knows how many there have been.
    check_generated(opening, asked, found, before=before, context_length=0)


class _Unary:
    """What it says of its model and its load is disturbed, too."""

    hostility: Hostility

    async def _said(self, true: Any) -> Any:
        return self.hostility.fact(true)


class HostileDraft(_Unary, DraftServicer):
    """A draft whose answers are disturbed."""

    async def GetDraftLoad(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        return await self._said(await super().GetDraftLoad(request, context))

    async def Draft(
        self, request_iterator: AsyncIterator[draft_pb2.DraftRequest], context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[draft_pb2.DraftResponse]:
        asked: list[Any] = []
        true = super().Draft(_kept(request_iterator, asked), context)
        async with aclosing(self.hostility.answers(draft_pb2.DraftResponse, true, asked, context)) as answers:
            async for answer in answers:
                yield answer


class HostileForeseeing(HostileDraft, ForeseeingDraft):
    """A draft that looks ahead, and what it says of that is disturbed, too."""


class HostileTarget(_Unary, TargetServicer):
    """A target whose answers are disturbed."""

    async def GetTargetModel(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        return await self._said(await super().GetTargetModel(request, context))

    async def GetTargetLoad(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        return await self._said(await super().GetTargetLoad(request, context))

    async def Verify(
        self, request_iterator: AsyncIterator[target_pb2.VerifyRequest], context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[target_pb2.VerifyResponse]:
        asked: list[Any] = []
        true = super().Verify(_kept(request_iterator, asked), context)
        async with aclosing(self.hostility.answers(target_pb2.VerifyResponse, true, asked, context)) as answers:
            async for answer in answers:
                yield answer


async def _kept(requests: AsyncIterator[Any], asked: list[Any]) -> AsyncGenerator[Any]:
    """The requests; the first and the last of them stay in `asked`."""
    async for request in requests:
        asked[1:] = [request] if asked else []
        asked[:0] = [] if asked else [request]
        yield request


def _raw(answer: Any) -> bytes:
    """A serializer that takes bytes, too."""
    return answer if isinstance(answer, bytes) else bytes(answer.SerializeToString())


def add_draft(servicer: HostileDraft, server: grpc.aio.Server) -> None:
    _add("tandem.v1.DraftService", "Draft", ("GetDraftModel", "GetDraftLoad"), draft_pb2, servicer, server)


def add_target(servicer: HostileTarget, server: grpc.aio.Server) -> None:
    _add("tandem.v1.TargetService", "Verify", ("GetTargetModel", "GetTargetLoad"), target_pb2, servicer, server)


def _add(name: str, stream: str, unary: tuple[str, ...], messages: Any, servicer: Any, server: grpc.aio.Server) -> None:
    """As the generated functions do, with `_raw`."""
    methods = {
        method: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, method),
            request_deserializer=getattr(messages, f"{method}Request").FromString,
            response_serializer=_raw,
        )
        for method in unary
    }
    methods[stream] = grpc.stream_stream_rpc_method_handler(
        getattr(servicer, stream),
        request_deserializer=getattr(messages, f"{stream}Request").FromString,
        response_serializer=_raw,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
