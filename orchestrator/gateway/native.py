"""Tandem's own API as JSON: the messages of `completion.proto` by protobuf's mapping, with the names of the fields."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import TypeVar

from fastapi import APIRouter, Request, Response
from google.protobuf.message import Message

from orchestrator.completions import Completions
from orchestrator.gateway.body import read_json
from orchestrator.gateway.connection import Gate
from orchestrator.gateway.errors import Json
from orchestrator.gateway.events import EventStream, event
from orchestrator.gateway.messages import to_message, to_object
from orchestrator.gateway.openapi import body_of
from tandem.telemetry.context import bind_request
from tandem.v1 import completion_pb2

MessageT = TypeVar("MessageT", bound=Message)


def _takes(kind: type[Message]) -> dict[str, object]:
    return body_of({"type": "object", "description": f"{kind.DESCRIPTOR.full_name} as JSON."})


def native_router(completions: Completions, gate: Gate) -> APIRouter:
    router = APIRouter(prefix="/tandem/v1", tags=["Tandem"])

    async def read(request: Request, kind: type[MessageT]) -> MessageT:
        gate.check()
        return to_message(await read_json(request), kind)

    async def tell(request: Request, answer: Awaitable[Message]) -> Response:
        return Json(to_object(await gate.hold(request.receive, answer)))

    @router.post("/complete", openapi_extra=_takes(completion_pb2.CompleteRequest))
    async def complete(request: Request) -> Response:
        """Streams the CompleteResponse messages of a CompleteRequest."""
        asked = await read(request, completion_pb2.CompleteRequest)
        bind_request(asked.request_id)
        events = _events(completions, asked, request.url.path)
        first = await gate.hold(request.receive, anext(events))
        return EventStream(first, events, gate, error_event="error")

    @router.post("/tokenize", openapi_extra=_takes(completion_pb2.TokenizeRequest))
    async def tokenize(request: Request) -> Response:
        """TokenizeRequest to TokenizeResponse."""
        return await tell(request, completions.tokenize(await read(request, completion_pb2.TokenizeRequest)))

    @router.post("/detokenize", openapi_extra=_takes(completion_pb2.DetokenizeRequest))
    async def detokenize(request: Request) -> Response:
        """DetokenizeRequest to DetokenizeResponse."""
        return await tell(request, completions.detokenize(await read(request, completion_pb2.DetokenizeRequest)))

    @router.get("/models")
    async def models(request: Request) -> Response:
        """GetModelsResponse."""
        return await tell(request, completions.models())

    @router.get("/load")
    async def load(request: Request) -> Response:
        """GetLoadResponse."""
        return await tell(request, completions.load())

    return router


async def _events(
    completions: Completions, request: completion_pb2.CompleteRequest, route: str
) -> AsyncGenerator[bytes]:
    async with aclosing(completions.stream(request, route=route)) as responses:
        async for response in responses:
            yield event(to_object(response))
