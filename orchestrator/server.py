"""CompletionService: what gRPC callers reach."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc

from orchestrator.completions import Completions
from tandem.v1 import completion_pb2, completion_pb2_grpc


class CompletionServicer(completion_pb2_grpc.CompletionServiceServicer):
    """Hands every call to `completions`."""

    def __init__(self, completions: Completions) -> None:
        self._completions = completions

    async def Complete(
        self, request: completion_pb2.CompleteRequest, context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[completion_pb2.CompleteResponse]:
        async with aclosing(self._completions.stream(request)) as responses:
            async for response in responses:
                yield response

    async def CompleteOnce(
        self, request: completion_pb2.CompleteOnceRequest, context: grpc.aio.ServicerContext
    ) -> completion_pb2.CompleteOnceResponse:
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
