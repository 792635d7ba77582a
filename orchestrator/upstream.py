"""The services behind the orchestrator: one stream for each sequence, as typed calls, and where to open it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Generic, Self, TypeVar

import grpc

from orchestrator.answers import (
    MalformedAnswerError,
    check_drafted,
    check_generated,
    check_resolved,
    check_rows,
    check_verified,
)
from orchestrator.deadline import DEADLINE
from orchestrator.ending import Ending
from orchestrator.replicas import (
    DRAFT,
    TARGET,
    Address,
    Connect,
    FitsTarget,
    Group,
    Lease,
    Lookup,
    OneModel,
    Pair,
    Replica,
    Search,
    Service,
    State,
    is_for_callers,
    same_model,
    system_lookup,
)
from tandem.rpc.channels import ChannelPool
from tandem.rpc.errors import TandemError
from tandem.rpc.tls import ClientTls
from tandem.telemetry import Telemetry
from tandem.telemetry.context import outgoing
from tandem.v1 import draft_pb2, draft_pb2_grpc, model_pb2, target_pb2, target_pb2_grpc

RequestT = TypeVar("RequestT")

# Of a caller's time, when it is taken for over: clocks of two machines do not run alike.
_LATE_SECONDS = 0.5


class _Stream(Generic[RequestT]):
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
            response = await self._call.read()
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
            if self._replica is not None and opened.HasField("model"):
                self._replica.serves(opened.model)
                self._check_model(opened.model)

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


class DraftStream(_Stream[draft_pb2.DraftRequest]):
    """One sequence in a draft service."""

    service = DRAFT

    def open(self, message: draft_pb2.DraftOpen) -> None:
        """Begins to connect and to send `message`; the first `round` waits for both and reads the answer."""
        self._start(draft_pb2_grpc.DraftServiceStub, "Draft")
        self._opened_with = message
        # Writing waits for the connection, and nobody should wait for a draft's before there is use for it.
        self._opening = asyncio.ensure_future(self._write(draft_pb2.DraftRequest(open=message)))
        self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def round(self, message: draft_pb2.DraftRound) -> draft_pb2.DraftedBlock:
        await self._opening
        await self._write(draft_pb2.DraftRequest(round=message))
        await self._read_opened()
        drafted: draft_pb2.DraftedBlock = await self._read("block")
        self._check(check_drafted, self._opened_with, message, drafted)
        return drafted

    async def rows(self, message: draft_pb2.DraftRows) -> draft_pb2.DraftedRows:
        await self._write(draft_pb2.DraftRequest(rows=message))
        rows: draft_pb2.DraftedRows = await self._read("rows")
        self._check(check_rows, self._opened_with, message, rows)
        return rows

    def close(self) -> None:
        if self._call is not None:
            self._opening.cancel()
        super().close()


class TargetStream(_Stream[target_pb2.VerifyRequest]):
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
        self._check(check_verified, self._opened_with, message, verified)
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
            self._check(check_generated, self._opened_with, message, token, before=before, context_length=context)
            yield token
            if token.last:
                return

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


class Upstream:
    """The targets behind the orchestrator and, where there are any, the drafts: each endpoint is one replica or as many
    as its name has addresses. Looks for them from its construction on, until `close`; needs a running event loop.

    connect_timeout_seconds: most that a completion waits for a target, and a replica has for an answer.
    target_patience_seconds: most that one that has begun waits for another target; as long if None. stall_seconds,
    target_timeout_seconds: after which streams of a replica that says nothing at all, or a stream of a target that is
    not answered, are given up. lookup: of names. max_waiting: completions that may wait for a target that has room.
    telemetry: told of the calls. tls: of all connections, None for plain ones. connect: to an address; by default with
    `telemetry` and `tls`.
    """

    def __init__(
        self,
        target: Sequence[str],
        draft: Sequence[str] = (),
        *,
        connect_timeout_seconds: float,
        target_patience_seconds: float | None = None,
        stall_seconds: float = math.inf,
        target_timeout_seconds: float = math.inf,
        resolve_seconds: float = 5.0,
        lookup: Lookup = system_lookup,
        max_waiting: int = 256,
        telemetry: Telemetry | None = None,
        tls: ClientTls | None = None,
        connect: Connect | None = None,
    ) -> None:
        self._timeout, self._patience = connect_timeout_seconds, target_patience_seconds
        self._served = OneModel()
        look = partial(
            Group,
            timeout=connect_timeout_seconds,
            resolve_seconds=resolve_seconds,
            lookup=lookup,
            max_waiting=max_waiting,
            connect=connect or partial(_connect, telemetry, tls),
            stall_seconds=stall_seconds,
        )
        self._drafts = look(DRAFT, draft, FitsTarget(self._served))
        self._targets = look(
            TARGET, target, self._served, reviewed=self._drafts.review, answer_seconds=target_timeout_seconds
        )

    def expect(self, own: model_pb2.ModelInfo) -> None:
        """own: what is known of the target before any has said what it serves; one that is another's is not used."""
        self._served.own = own

    @property
    def has_draft(self) -> bool:
        """Whether there is to be one."""
        return bool(self._drafts.endpoints)

    async def pair(self, *, speculates: bool, priority: int = 0) -> Pair:
        """Where to run the completions of a request; to be released. priority: who goes first where targets are full.

        Raises TandemError TARGET_UNAVAILABLE once none could be reached for the connect timeout, and TOKENIZER_MISMATCH
        where what is there cannot be used.
        """
        return await Pair.find(
            self._targets,
            self._drafts,
            timeout=self._timeout,
            speculates=speculates,
            patience=self._patience,
            priority=priority,
        )

    async def target_model(self) -> model_pb2.ModelInfo:
        """The model that is served. Raises TandemError as `pair` does."""
        replica = await Search(self._targets, self._timeout).find()
        assert replica.model is not None  # only such are found
        return replica.model

    async def draft_model(self) -> model_pb2.ModelInfo | None:
        """Of a draft that is ready, else of one that does not fit; None where none answers."""
        await self._drafts.choose_settled(timeout=self._timeout)
        others = [replica for replica in self._drafts.replicas if replica.state is State.MISMATCHED]
        return next((replica.model for replica in (*self._drafts.ready, *others)), None)

    async def loads(self) -> tuple[list[Replica], list[Replica]]:
        """Targets and drafts; those that answer have been asked just now."""
        targets, drafts = self._targets.replicas, self._drafts.replicas
        await asyncio.gather(*(replica.ask() for replica in (*targets, *drafts) if replica.problem is None))
        return targets, drafts

    async def check(self) -> None:
        """Raises TandemError where no target answers now. Drafts are not asked: nobody needs one."""
        for replica in self._targets.ready:
            await replica.ask()
            if replica.state is State.READY:
                return
        await asyncio.gather(*(replica.ask() for replica in self._targets.replicas))
        if not self._targets.ready:
            raise self._targets.problem()

    async def readiness(self) -> AsyncGenerator[bool]:
        """Whether a target is ready: now, and whenever that changes."""
        told = None
        while True:
            change, is_ready = self._targets.change, bool(self._targets.ready)
            if is_ready is not told:
                told = is_ready
                yield is_ready
            await change.wait()

    def count(self, service: str, state: str) -> int:
        """Replicas of `draft` or `target` in a state: `ready`, `failed` or `mismatched`."""
        return (self._targets if service == TARGET.name else self._drafts).count(State(state))

    async def close(self) -> None:
        """Ends what is open."""
        await asyncio.gather(self._targets.close(), self._drafts.close())


def _connect(telemetry: Telemetry | None, tls: ClientTls | None, service: Service, address: Address) -> ChannelPool:
    calls = telemetry.calls(service.name) if telemetry is not None else ()
    return ChannelPool(address.endpoint, interceptors=calls, tls=tls, server_name=address.server_name)
