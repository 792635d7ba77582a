"""OpenAI's routes: models, completions of text, completions of conversations."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from orchestrator.ahead import ahead
from orchestrator.completions import Completions
from orchestrator.gateway import names
from orchestrator.gateway.answers import Frame, Piece, chunks, whole
from orchestrator.gateway.body import read_json
from orchestrator.gateway.chat import ChatParameters
from orchestrator.gateway.connection import Gate
from orchestrator.gateway.errors import Json
from orchestrator.gateway.events import EventStream, event
from orchestrator.gateway.openapi import takes
from orchestrator.gateway.parameters import Parameters
from orchestrator.gateway.sampling import in_their_words, make_request, seeds
from orchestrator.gateway.text import TextParameters
from orchestrator.gateway.validation import parse
from tandem.rpc.errors import TandemError
from tandem.telemetry.context import bind_request
from tandem.v1 import completion_pb2, model_pb2

# Pieces of several prompts that may wait for a slow reader; each prompt has some of its own besides.
_PIECES_AHEAD = 4


def openai_router(completions: Completions, gate: Gate) -> APIRouter:
    router = APIRouter(tags=["OpenAI"])
    started = int(time.time())

    async def card(name: str, policy: str, target: model_pb2.ModelInfo) -> dict[str, Any]:
        """speculation: the policy that the name stands for."""
        told = {"id": name, "object": "model", "created": started, "owned_by": "tandem", "root": target.model_id}
        return {**told, "max_model_len": target.context_length or None, "speculation": policy}

    async def cards(request: Request) -> dict[str, dict[str, Any]]:
        target = (await gate.hold(request.receive, completions.models())).target
        return {name: await card(name, policy, target) for name, policy in names.all_names(target.model_id).items()}

    @router.get("/v1/models")
    async def list_models(request: Request) -> Response:
        """The target by its name, and by a name for each policy that has one."""
        return Json({"object": "list", "data": list((await cards(request)).values())})

    @router.get("/v1/models/{model:path}")
    async def retrieve_model(request: Request, model: str) -> Response:
        """One of them."""
        found = await cards(request)
        if model not in found:
            names.split(model, next(iter(found)))  # raises
        return Json(found[model])

    @router.post("/v1/chat/completions", openapi_extra=takes(ChatParameters))
    async def complete_chat(request: Request) -> Response:
        """Completes a conversation."""
        return await answer(request, ChatParameters)

    @router.post("/v1/completions", openapi_extra=takes(TextParameters))
    async def complete_text(request: Request) -> Response:
        """Completes one or more prompts."""
        return await answer(request, TextParameters)

    async def answer(request: Request, kind: type[Parameters]) -> Response:
        gate.check()
        parameters = parse(kind, await read_json(request))
        models = await gate.hold(request.receive, completions.models())
        policy = names.split(parameters.model, models.target.model_id)
        name = parameters.request_id or f"{kind.id_prefix}{uuid.uuid4().hex[:24]}"
        bind_request(name)
        asked = _named(parameters.fill(make_request(parameters, policy)), name)
        frame = Frame(parameters, name, _fingerprint(models), seeds(parameters, len(asked)))
        for one, seed in zip(asked, frame.seeds, strict=True):
            one.sampling.seed = seed % 2**64
        if len(asked) > 1:  # else one that cannot be taken would be told of behind the first words of the others
            await gate.hold(request.receive, _validate(completions, asked, parameters))
        pieces = _pieces(completions, asked, parameters, request.url.path)
        headers = {"x-request-id": name} if name.isascii() and name.isprintable() else {}
        if not parameters.stream:
            return Json(await gate.hold(request.receive, whole(frame, pieces)), headers=headers)
        events = _events(frame, pieces)
        first = await gate.hold(request.receive, anext(events))
        return EventStream(first, events, gate, headers=headers)

    return router


def _named(
    requests: list[completion_pb2.CompleteRequest], name: str
) -> list[completion_pb2.CompleteRequest]:
    for index, request in enumerate(requests):
        request.request_id = name if len(requests) == 1 else f"{name}-{index}"
    return requests


async def _validate(
    completions: Completions, requests: Sequence[completion_pb2.CompleteRequest], parameters: Parameters
) -> None:
    """Raises HttpError."""
    try:
        for request in requests:
            await completions.validate(request)
    except TandemError as error:
        raise in_their_words(error, parameters) from error


async def _pieces(
    completions: Completions, requests: Sequence[completion_pb2.CompleteRequest], parameters: Parameters, route: str
) -> AsyncGenerator[Piece]:
    """What all prompts add, as it comes. Raises HttpError."""
    each = parameters.n or 1

    async def of_prompt(number: int, request: completion_pb2.CompleteRequest) -> AsyncGenerator[Piece]:
        async with aclosing(completions.stream(request, route=route)) as responses:
            async for response in responses:
                yield number * each + response.choice, response

    sources = [of_prompt(number, request) for number, request in enumerate(requests)]
    one_prompt = len(sources) == 1  # it runs ahead of its reader by itself
    try:
        async with aclosing(sources[0] if one_prompt else ahead(sources, _PIECES_AHEAD)) as pieces:
            async for piece in pieces:
                yield piece
    except TandemError as error:
        raise in_their_words(error, parameters) from error


async def _events(frame: Frame, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[bytes]:
    async with aclosing(pieces), aclosing(chunks(frame, pieces)) as found:
        async for chunk in found:
            yield event(chunk)


def _fingerprint(models: completion_pb2.GetModelsResponse) -> str:
    """Of what determines the text for a seed: the target, its tokenizer, the draft."""
    facts = [
        (model.model_id, model.revision, model.dtype, model.weights, model.tokenizer_fingerprint)
        for model in (models.target, models.draft)
    ]
    return f"fp_{hashlib.sha256(repr(facts).encode()).hexdigest()[:12]}"
