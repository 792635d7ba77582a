"""The two services behind the orchestrator: one stream for each sequence, as typed calls."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any, Generic, TypeVar

import grpc
import tenacity

from orchestrator.ending import Ending
from tandem.rpc.channels import ChannelPool
from tandem.rpc.errors import TandemError
from tandem.v1 import draft_pb2, draft_pb2_grpc, model_pb2, target_pb2, target_pb2_grpc

RequestT = TypeVar("RequestT")


class _Stream(Generic[RequestT]):
    """One bidirectional stream that answers every message in order.

    Errors of the stream surface as TandemError; `unavailable` is the reason of a connection refused or lost.
    """

    unavailable: str

    def __init__(self, pool: ChannelPool) -> None:
        self._pool = pool
        self._lease = ExitStack()
        self._call: grpc.aio.StreamStreamCall | None = None
        self._opened = False  # whether the service has answered

    def _start(self, stub: type, method: str) -> None:
        channel = self._lease.enter_context(self._pool.lease())
        self._call = getattr(stub(channel), method)()
        self._ending = Ending(self._call)

    async def _write(self, request: RequestT) -> None:
        assert self._call is not None
        try:
            await self._call.write(request)
        except grpc.aio.AioRpcError as error:
            told = await self._ending.behind(error)
            raise _explain(told, self.unavailable, self._pool, lost=self._opened) from error
        except asyncio.InvalidStateError:  # the stream has ended: reading tells why
            await self._read("nothing")

    async def _read(self, kind: str) -> Any:
        """The next answer, which must be of `kind`."""
        assert self._call is not None
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise _explain(error, self.unavailable, self._pool, lost=self._opened) from error
        if response is grpc.aio.EOF:
            raise await self._ended()
        if response.WhichOneof("kind") != kind:
            raise TandemError.unexpected_message(f"expected {kind!r}, received {response.WhichOneof('kind')!r}")
        return getattr(response, kind)

    async def _ended(self) -> TandemError:
        assert self._call is not None
        code = await self._call.code()
        return TandemError(
            self.unavailable, f"{self._pool.endpoint} ended the stream: {code.name}", retry_after=1.0
        )

    def close(self) -> None:
        """Ends the stream; the service frees what it held. May be called at any time, also twice."""
        if self._call is not None:
            self._call.cancel()
        self._lease.close()


class DraftStream(_Stream[draft_pb2.DraftRequest]):
    """One sequence in a draft service."""

    unavailable = "DRAFT_UNAVAILABLE"

    def open(self, message: draft_pb2.DraftOpen) -> None:
        """Begins to connect and to send `message`; the first `round` waits for both and reads the answer."""
        self._start(draft_pb2_grpc.DraftServiceStub, "Draft")
        # Writing waits for the connection, and nobody should wait for a draft's before there is use for it.
        self._opening = asyncio.ensure_future(self._write(draft_pb2.DraftRequest(open=message)))
        self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def round(self, message: draft_pb2.DraftRound) -> draft_pb2.DraftedBlock:
        await self._opening
        await self._write(draft_pb2.DraftRequest(round=message))
        if not self._opened:
            await self._read("opened")
            self._opened = True
        return await self._read("block")

    async def rows(self, message: draft_pb2.DraftRows) -> draft_pb2.DraftedRows:
        await self._write(draft_pb2.DraftRequest(rows=message))
        return await self._read("rows")

    def close(self) -> None:
        if self._call is not None:
            self._opening.cancel()
        super().close()


class TargetStream(_Stream[target_pb2.VerifyRequest]):
    """One sequence in a target service."""

    unavailable = "TARGET_UNAVAILABLE"

    async def open(self, message: target_pb2.VerifyOpen) -> None:
        """Sends `message` without waiting for its answer, which the first `round` or `generate` reads."""
        self._start(target_pb2_grpc.TargetServiceStub, "Verify")
        await self._write(target_pb2.VerifyRequest(open=message))

    async def round(self, message: target_pb2.VerifyRound) -> target_pb2.VerifiedBlock:
        await self._write(target_pb2.VerifyRequest(round=message))
        await self._read_opened()
        return await self._read("verified")

    async def resolve(self, message: target_pb2.ResolveDistances) -> target_pb2.ResolvedDistances:
        await self._write(target_pb2.VerifyRequest(resolve=message))
        return await self._read("resolved")

    async def generate(self, message: target_pb2.Generate):
        """Yields GeneratedToken until its `last`."""
        await self._write(target_pb2.VerifyRequest(generate=message))
        await self._read_opened()
        while True:
            token = await self._read("generated")
            yield token
            if token.last:
                return

    async def _read_opened(self) -> None:
        if not self._opened:
            await self._read("opened")
            self._opened = True


def _explain(
    error: grpc.aio.AioRpcError, unavailable: str, pool: ChannelPool, *, lost: bool = False
) -> TandemError:
    """The service's own error; of a connection that failed, what it means to whoever reads it. lost: it had worked."""
    explained = TandemError.from_rpc_error(error, unavailable=unavailable)
    if explained.reason == unavailable:
        side = unavailable.removesuffix("_UNAVAILABLE").lower()
        problem = "was lost" if lost else "does not answer: is it running?"
        explained.message = f"the {side} service at {pool.endpoint} {problem}"
    return explained


class Upstream:
    """One draft endpoint (or none) and one target endpoint, and what is known of their models."""

    #: Seconds for which a model's description is believed before it is asked for again.
    _FRESH_SECONDS = 10.0
    #: Seconds for which a service that took longer than the timeout is not asked again: no request waits for it twice.
    _SILENT_SECONDS = 5.0

    def __init__(self, target: str, draft: str | None, *, connect_timeout_seconds: float) -> None:
        self._target_pool = ChannelPool(target)
        self._draft_pool = None if draft is None else ChannelPool(draft)
        self._timeout = connect_timeout_seconds
        self._models: dict[str, tuple[float, model_pb2.ModelInfo]] = {}
        self._silent: dict[str, float] = {}  # when

    @property
    def has_draft(self) -> bool:
        return self._draft_pool is not None

    def target_stream(self) -> TargetStream:
        return TargetStream(self._target_pool)

    def draft_stream(self) -> DraftStream:
        assert self._draft_pool is not None
        return DraftStream(self._draft_pool)

    async def target_model(self) -> model_pb2.ModelInfo:
        """Raises TandemError TARGET_UNAVAILABLE once the target could not be reached for the connect timeout."""
        return await self._model("target", self._ask_target, self._target_pool, "TARGET_UNAVAILABLE")

    async def draft_model(self) -> model_pb2.ModelInfo:
        """Raises TandemError DRAFT_UNAVAILABLE at once: a completion does not wait for a draft."""
        assert self._draft_pool is not None
        return await self._model("draft", self._ask_draft, self._draft_pool, "DRAFT_UNAVAILABLE")

    async def loads(self) -> tuple[model_pb2.Load | None, model_pb2.Load | None]:
        """Of the target and of the draft; None of one that does not answer."""
        target, draft = await asyncio.gather(
            self.target_load(),
            self._load(self._draft_pool, draft_pb2_grpc.DraftServiceStub, "GetDraftLoad", draft_pb2),
        )
        return target, draft

    async def target_load(self) -> model_pb2.Load | None:
        """None where the target does not answer."""
        return await self._load(self._target_pool, target_pb2_grpc.TargetServiceStub, "GetTargetLoad", target_pb2)

    async def _load(self, pool: ChannelPool | None, stub: type, method: str, messages: Any) -> model_pb2.Load | None:
        if pool is None:
            return None
        try:
            with pool.lease() as channel:
                request = getattr(messages, f"{method}Request")()
                return (await getattr(stub(channel), method)(request, timeout=self._timeout)).load
        except grpc.aio.AioRpcError:
            return None

    def forget(self, side: str) -> None:
        """Asks for the model of `side` again at the next request: its service failed and may come back another."""
        self._models.pop(side, None)

    async def _model(
        self, side: str, ask: Callable[[], Awaitable[model_pb2.ModelInfo]], pool: ChannelPool, unavailable: str
    ) -> model_pb2.ModelInfo:
        if time.monotonic() - self._silent.get(side, -math.inf) < self._SILENT_SECONDS:
            raise self._silence(pool, unavailable)
        known = self._models.get(side)
        if known is not None and time.monotonic() - known[0] < self._FRESH_SECONDS:
            return known[1]
        try:
            model = await ask()
        except grpc.aio.AioRpcError as error:
            self.forget(side)
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:  # it is there, but says nothing
                self._silent[side] = time.monotonic()
                raise self._silence(pool, unavailable) from error
            raise _explain(error, unavailable, pool) from error
        self._models[side] = (time.monotonic(), model)
        return model

    def _silence(self, pool: ChannelPool, unavailable: str) -> TandemError:
        message = f"the service at {pool.endpoint} took too long to say what it serves"
        return TandemError(unavailable, message, retry_after=self._SILENT_SECONDS)

    async def _ask_target(self) -> model_pb2.ModelInfo:
        """Retries while nothing listens: the services of a host start in any order."""
        attempts = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_delay(self._timeout),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=0.5),
            retry=tenacity.retry_if_exception(
                lambda error: isinstance(error, grpc.aio.AioRpcError)
                and error.code() is grpc.StatusCode.UNAVAILABLE
            ),
            reraise=True,
        )
        async for attempt in attempts:
            with attempt, self._target_pool.lease() as channel:
                stub = target_pb2_grpc.TargetServiceStub(channel)
                request = target_pb2.GetTargetModelRequest()
                return (await stub.GetTargetModel(request, timeout=self._timeout)).model
        raise AssertionError("tenacity ends by a return or by the last error")

    async def _ask_draft(self) -> model_pb2.ModelInfo:
        assert self._draft_pool is not None
        with self._draft_pool.lease() as channel:
            stub = draft_pb2_grpc.DraftServiceStub(channel)
            request = draft_pb2.GetDraftModelRequest()
            return (await stub.GetDraftModel(request, timeout=self._timeout)).model

    async def close(self) -> None:
        await self._target_pool.close()
        if self._draft_pool is not None:
            await self._draft_pool.close()
