"""A stream to a target."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import grpc

from orchestrator.answers import check_generated, check_resolved, check_verified
from orchestrator.replicas import TARGET, is_for_callers, same_model
from orchestrator.streams.base import Stream
from tandem.rpc.errors import TandemError
from tandem.v1 import model_pb2, target_pb2, target_pb2_grpc


class TargetStream(Stream[target_pb2.VerifyRequest]):
    """One sequence in a target service."""

    service = TARGET

    async def open(self, message: target_pb2.VerifyOpen) -> None:
        """Sends `message` without waiting for its answer, which the first `round` or `generate` reads."""
        self._start(target_pb2_grpc.TargetServiceStub, "Verify")
        self._opened_with = message
        await self._write(target_pb2.VerifyRequest(open=message))

    async def round(self, message: target_pb2.VerifyRound) -> target_pb2.VerifiedBlock:
        await self._write(target_pb2.VerifyRequest(round=message))
        await self._read_opened()
        verified: target_pb2.VerifiedBlock = await self._read("verified")
        self._check(check_verified, self._opened_with, message, verified, feature_width=self._feature_width)
        return verified

    async def resolve(self, message: target_pb2.ResolveDistances) -> target_pb2.ResolvedDistances:
        await self._write(target_pb2.VerifyRequest(resolve=message))
        resolved: target_pb2.ResolvedDistances = await self._read("resolved")
        self._check(check_resolved, message, resolved)
        return resolved

    async def generate(self, message: target_pb2.Generate) -> AsyncGenerator[target_pb2.GeneratedToken]:
        """Yields GeneratedToken until its `last`."""
        await self._write(target_pb2.VerifyRequest(generate=message))
        await self._read_opened()
        context = self._expected.context_length if self._expected is not None else 0
        for before in range(message.max_tokens):
            token: target_pb2.GeneratedToken = await self._read("generated")
            self._check(
                check_generated, self._opened_with, message, token,
                before=before, context_length=context, feature_width=self._feature_width,
            )  # fmt: skip
            yield token
            if token.last:
                return

    @property
    def _feature_width(self) -> int:
        return self._expected.features.width if self._expected is not None else 0

    def _failed(self, error: grpc.aio.AioRpcError) -> TandemError:
        failed = super()._failed(error)
        if is_for_callers(failed, has_begun=self._opened, is_late=self._is_late()):
            return failed
        where = self.service.at(self._pool.endpoint)
        return self.service.error(f"{where} ended the stream with {failed.code.name}: {failed.message}")

    def _check_model(self, found: model_pb2.ModelInfo) -> None:
        """The process may have been replaced since it was asked; a draft has compared tokenizers itself by now."""
        if self._expected is not None and not same_model(found, self._expected):
            where = self.service.at(self._pool.endpoint)
            raise self.service.error(f"{where} serves another model by now, {found.model_id}")
