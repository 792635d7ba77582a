"""What the streams to a draft and to a target have in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Generic, Self, TypeVar

import grpc

from orchestrator.answers import MalformedAnswerError
from orchestrator.deadline import DEADLINE
from orchestrator.ending import Ending
from orchestrator.replicas import Lease, Service
from tandem.rpc.channels import ChannelPool
from tandem.rpc.errors import TandemError
from tandem.telemetry.context import outgoing
from tandem.v1 import model_pb2

RequestT = TypeVar("RequestT")

# Of a caller's time, when it is taken for over: clocks of two machines do not run alike.
_LATE_SECONDS = 0.5


class Stream(Generic[RequestT]):
    """One bidirectional stream that answers every message in order.

    Errors of the stream surface as TandemError, and its replica is told of them; not where the caller's deadline, which
    is the stream's too, has ended it.
    """

    service: Service

    def __init__(self, pool: ChannelPool, lease: Lease | None = None) -> None:
        """lease: where the pool leads to."""
        self._pool = pool
        self._replica = lease.replica if lease is not None else None
        self._expected = lease.model if lease is not None else None
        self._lease = ExitStack()
        self._call: grpc.aio.StreamStreamCall | None = None
        self._opened = False  # whether the service has answered
        self._has_deadline = False
        self._took_in = False  # what it was opened with
        self._given_up: TandemError | None = None
        self.asked_at: float | None = None

    @classmethod
    def at(cls, lease: Lease) -> Self:
        return cls(lease.replica.pool, lease)

    @property
    def is_open(self) -> bool:
        """Whether the service has taken the sequence."""
        return self._opened

    def _start(self, stub: type, method: str) -> None:
        """Raises TandemError DEADLINE_EXCEEDED where there is no time left for it."""
        channel = self._lease.enter_context(self._pool.lease())
        left = DEADLINE.get().left()
        if left == 0:
            raise TandemError.deadline_exceeded()
        self._has_deadline = left is not None
        self._call = getattr(stub(channel), method)(metadata=outgoing(), timeout=left)
        self._ending = Ending(self._call)
        if self._replica is not None:
            self._replica.entered(self)

    async def _write(self, request: RequestT) -> None:
        assert self._call is not None
        try:
            await self._call.write(request)
        except grpc.aio.AioRpcError as error:
            told = await self._ending.behind(error)
            raise self._failed(told) from error
        except asyncio.InvalidStateError:  # the stream has ended: reading tells why
            await self._read("nothing")
        except asyncio.CancelledError:
            self._raise_given_up()
            raise

    async def _read(self, kind: str) -> Any:
        """The next answer, which must be of `kind`."""
        assert self._call is not None
        if self._took_in:
            self.asked_at = time.monotonic()
        try:
            response = await self._receive()
        except grpc.aio.AioRpcError as error:
            raise self._failed(error) from error
        except asyncio.CancelledError:
            self._raise_given_up()
            raise
        self.asked_at = None
        if response is grpc.aio.EOF:
            code = await self._call.code()
            raise self._tell(self.service.error(f"{self._pool.endpoint} ended the stream: {code.name}"))
        if response is None:  # gRPC's word for what it could not read
            raise self._malformed("bytes that are no message")
        if response.WhichOneof("kind") != kind:
            raise self._malformed(f"{response.WhichOneof('kind')} where {kind} was due")
        if kind != "opened":
            self._took_in = True
        return getattr(response, kind)

    async def _receive(self) -> Any:
        """The next message that answers something; the end of the stream, as gRPC has it."""
        assert self._call is not None
        return await self._call.read()

    def give_up(self, error: TandemError) -> None:
        """Called by the replica: whoever waits for an answer gets `error`, not a cancellation."""
        if self._call is not None and self._given_up is None:
            self._given_up = error
            self._call.cancel()

    def _raise_given_up(self) -> None:
        """Where the call was cancelled, and not the task that waits for it."""
        task = asyncio.current_task()
        if self._given_up is not None and not (task is not None and task.cancelling()):
            raise self._tell(self._given_up)

    def _check(self, check: Callable[..., None], *answer: Any, **facts: Any) -> None:
        """Raises TandemError for an answer that cannot be one: nothing that comes after it can be trusted."""
        try:
            check(*answer, **facts)
        except MalformedAnswerError as error:
            raise self._malformed(str(error)) from error
        if self._replica is not None:
            self._replica.heard()

    def _malformed(self, problem: str) -> TandemError:
        where = self.service.at(self._pool.endpoint)
        return self._tell(self.service.error(f"{where} answered what cannot be: {problem}"))

    async def _read_opened(self) -> None:
        if not self._opened:
            opened = await self._read("opened")
            self._opened = True
            self._take_opened(opened)
            if self._replica is not None and opened.HasField("model"):
                self._replica.serves(opened.model)
                self._check_model(opened.model)

    def _take_opened(self, opened: Any) -> None:
        """What else the service says of itself. Raises TandemError where that cannot be."""

    def _check_model(self, found: model_pb2.ModelInfo) -> None:
        """Raises TandemError where what was opened is not what the sequence was meant for."""

    def _failed(self, error: grpc.aio.AioRpcError) -> TandemError:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and self._is_late():
            return TandemError.deadline_exceeded()
        explained = self.service.explain(error, self._pool.endpoint, lost=self._opened)
        if explained.reason == "DEADLINE_EXCEEDED":  # it says so, but has been given more time
            explained = self.service.error(f"{self.service.at(self._pool.endpoint)}: {explained.message}")
        return self._tell(explained)

    def _is_late(self) -> bool:
        """Whether the caller's time is over, or as good as that."""
        left = self._call.time_remaining() if self._call is not None and self._has_deadline else None
        return left is not None and left < _LATE_SECONDS

    def _tell(self, error: TandemError) -> TandemError:
        if self._replica is not None:
            self._replica.told(error)
        return error

    def close(self) -> None:
        """Ends the stream; the service frees what it held. May be called at any time, also twice."""
        if self._call is not None:
            self._call.cancel()
            self._ending.close()
        if self._replica is not None:
            self._replica.left(self)
        self._lease.close()
