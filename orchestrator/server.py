"""CompletionService: what gRPC callers reach."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

import grpc

from orchestrator.completions import Completions
from orchestrator.deadline import due
from orchestrator.upstream import Upstream
from tandem.rpc.server import Server
from tandem.v1 import completion_pb2, completion_pb2_grpc

SERVICE_NAME = "tandem.v1.CompletionService"


@asynccontextmanager
async def completion_service(server: Server, completions: Completions, upstream: Upstream) -> AsyncGenerator[None]:
    """Adds the service to a server that has not started yet. Its health follows that of the targets; the server's own
    (the empty name) does not, so that nobody ends an orchestrator that only waits for a target."""
    server.add(
        completion_pb2_grpc.add_CompletionServiceServicer_to_server,
        CompletionServicer(completions),
        SERVICE_NAME,
        serving=False,
    )

    async def follow() -> None:
        async with aclosing(upstream.readiness()) as changes:
            async for is_ready in changes:
                await server.set_serving(SERVICE_NAME, is_ready)

    following = asyncio.create_task(follow())
    try:
        yield
    finally:
        following.cancel()
        await asyncio.wait({following})


class CompletionServicer(completion_pb2_grpc.CompletionServiceServicer):
    """Hands every call to `completions`."""

    def __init__(self, completions: Completions) -> None:
        self._completions = completions

    async def Complete(
        self, request: completion_pb2.CompleteRequest, context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[completion_pb2.CompleteResponse]:
        with due(context.time_remaining()):
            async with aclosing(self._completions.stream(request)) as responses:
                async for response in responses:
                    yield response

    async def CompleteOnce(
        self, request: completion_pb2.CompleteOnceRequest, context: grpc.aio.ServicerContext
    ) -> completion_pb2.CompleteOnceResponse:
        with due(context.time_remaining()):
            return await self._completions.once(request.completion, path="completion.")

    async def GetModels(
        self, request: completion_pb2.GetModelsRequest, context: grpc.aio.ServicerContext
    ) -> completion_pb2.GetModelsResponse:
        return await self._completions.models()

    async def GetLoad(
        self, request: completion_pb2.GetLoadRequest, context: grpc.aio.ServicerContext
    ) -> completion_pb2.GetLoadResponse:
        return await self._completions.load()

    async def Tokenize(
        self, request: completion_pb2.TokenizeRequest, context: grpc.aio.ServicerContext
    ) -> completion_pb2.TokenizeResponse:
        return await self._completions.tokenize(request)

    async def Detokenize(
        self, request: completion_pb2.DetokenizeRequest, context: grpc.aio.ServicerContext
    ) -> completion_pb2.DetokenizeResponse:
        return await self._completions.detokenize(request)
