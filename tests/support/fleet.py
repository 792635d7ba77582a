"""Several real targets and drafts behind one real orchestrator; each can be killed, drained and brought back."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc
from prometheus_client.parser import text_string_to_metric_families

from draft_service.drafters.features import FeaturesDrafter
from draft_service.drafters.model import ModelDrafter
from draft_service.server import DraftServicer
from orchestrator.completions import Completions
from orchestrator.replicas import Lookup, system_lookup
from orchestrator.server import completion_service
from orchestrator.settings import OrchestratorSettings
from orchestrator.upstream import Upstream
from tandem.grammars import Grammars
from tandem.inference.engine import Engine, EngineLimits
from tandem.inference.feeding import FedRunner
from tandem.inference.loaded import LoadedModel
from tandem.inference.runner import ModelRunner
from tandem.rpc.channels import ChannelPool
from tandem.rpc.errors import TandemError
from tandem.rpc.server import PortTakenError, Server
from tandem.v1 import completion_pb2, completion_pb2_grpc, draft_pb2_grpc, model_pb2, target_pb2_grpc
from tandem.wire import model_info
from target_service.server import TargetServicer
from tests.support.foreseeing import ForeseeingDraft, Foresight
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import OFF, make_request, serve_model

TOKENIZER = byte_tokenizer(64)
#: Long enough that what a test leaves open outlasts it.
CONTEXT = 32768


class _CountsTarget(TargetServicer):
    """A target that counts the streams that came."""

    def __init__(self, engine: Engine, info: model_pb2.ModelInfo, grammars: Grammars, replica: Service) -> None:
        super().__init__(engine, info, grammars)
        self._replica = replica

    async def Verify(  # noqa: N802
        self, request_iterator: AsyncIterator[Any], context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[Any]:
        self._replica.streams += 1
        if self._replica.refuses is not None:
            raise self._replica.refuses
        async with aclosing(super().Verify(request_iterator, context)) as responses:
            async for response in responses:
                await self._replica.before_an_answer(response.WhichOneof("kind"))
                yield response
                if self._replica.dies_after_opening:  # as a process does while it takes in a prompt
                    raise TandemError("TARGET_UNAVAILABLE", "killed", retry_after=1.0)

    async def GetTargetLoad(self, request: Any, context: grpc.aio.ServicerContext) -> Any:  # noqa: N802
        await self._replica.before_a_load()
        return await super().GetTargetLoad(request, context)


class _CountsDraft(DraftServicer):
    """A draft that counts the streams that came."""

    def __init__(self, drafter: ModelDrafter, grammars: Grammars, replica: Service) -> None:
        super().__init__(drafter, grammars)
        self._replica = replica

    async def Draft(  # noqa: N802
        self, request_iterator: AsyncIterator[Any], context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[Any]:
        self._replica.streams += 1
        if self._replica.refuses is not None:
            raise self._replica.refuses
        async with aclosing(super().Draft(request_iterator, context)) as responses:
            async for response in responses:
                await self._replica.before_an_answer(response.WhichOneof("kind"))
                yield response

    async def GetDraftLoad(self, request: Any, context: grpc.aio.ServicerContext) -> Any:  # noqa: N802
        await self._replica.before_a_load()
        return await super().GetDraftLoad(request, context)


class _CountsForeseeing(_CountsDraft, ForeseeingDraft):
    """The same, which looks ahead."""


@dataclass(slots=True, eq=False)
class Death:
    """Kills one of the services that share it, instead of the `nth` answer of a kind that any of them gives."""

    kind: str
    nth: int
    victim: Service | None = None

    def comes(self, kind: str, at: Service) -> bool:
        if kind != self.kind or self.victim is not None:
            return False
        self.nth -= 1
        if self.nth == 0:
            self.victim = at
        return self.victim is not None


@dataclass(slots=True, eq=False)
class Service:
    """A target or a draft. streams: that have come to it. refuses: what every stream ends with, None to serve. answers:
    on streams. ends: how many answers it still gives before its streams end with an error, None for all. delay: seconds
    before each answer. hangs: whether streams get no answers; is_stopped: nor questions for its load. death: when it is
    killed."""

    server: Server
    engine: Engine
    refuses: TandemError | None = None
    dies_after_opening: bool = False
    streams: int = 0
    answers: int = 0
    ends: int | None = None
    delay: float = 0.0
    hangs: bool = False
    is_stopped: bool = False
    death: Death | None = None
    _dying: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        return self.server.address

    async def before_an_answer(self, kind: str) -> None:
        if self.death is not None and self.death.comes(kind, self):
            self._dying = asyncio.create_task(self.kill())
            await asyncio.Event().wait()
        if self.delay:
            await asyncio.sleep(self.delay)
        while self.hangs or self.is_stopped:
            await asyncio.sleep(0.01)
        if self.ends is not None:
            self.ends -= 1
            if self.ends < 0:
                raise TandemError.internal("broken")
        self.answers += 1

    async def before_a_load(self) -> None:
        while self.is_stopped:
            await asyncio.sleep(0.01)

    async def kill(self) -> None:
        """Ends all that is open at once, as the death of a process does."""
        await self.server._stop(None)

    async def drain(self) -> None:
        """As SIGTERM does: open streams may end."""
        await self.server.drain()

    async def come_back(self) -> None:
        """On the same port."""
        await self.server.start()


@dataclass(slots=True)
class Fleet:
    """Services to put behind an orchestrator; stopped at the end."""

    stack: AsyncExitStack

    async def target(
        self,
        model: LoadedModel | None = None,
        *,
        revision: str = "",
        fingerprint: str | None = None,
        limits: EngineLimits | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> Service:
        loaded = model or tiny_llama(1, context=CONTEXT)
        served = serve_model(loaded, TOKENIZER, fingerprint=fingerprint, limits=limits)
        served = replace(served, revision=revision)
        served.engine.start()
        self.stack.push_async_callback(served.engine.close)
        service = Service(Server(host, port), served.engine)
        servicer = _CountsTarget(served.engine, model_info(served), served.grammars, service)
        service.server.add(
            target_pb2_grpc.add_TargetServiceServicer_to_server, servicer, "tandem.v1.TargetService"
        )
        await self.stack.enter_async_context(service.server)
        return service

    async def draft(
        self,
        model: LoadedModel | None = None,
        *,
        fingerprint: str | None = None,
        limits: EngineLimits | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        foresight: Foresight | None = None,
    ) -> Service:
        """foresight: with which it looks ahead."""
        loaded = model or tiny_llama(1, noise=0.02, context=CONTEXT)
        runner, make = (FedRunner, FeaturesDrafter) if loaded.is_fed else (ModelRunner, ModelDrafter)
        served = serve_model(
            loaded, TOKENIZER, "tiny-draft", fingerprint=fingerprint, limits=limits, runner=runner
        )
        drafter = make(served.engine, model_info(served), sayable=served.loaded.sayable)
        await drafter.start()
        self.stack.push_async_callback(drafter.close)
        service = Service(Server(host, port), served.engine)
        if foresight is None:
            servicer = _CountsDraft(drafter, served.grammars, service)
        else:
            servicer = _CountsForeseeing(drafter, served.grammars, service)
            servicer.foresight = foresight
        service.server.add(
            draft_pb2_grpc.add_DraftServiceServicer_to_server, servicer, "tandem.v1.DraftService"
        )
        await self.stack.enter_async_context(service.server)
        return service

    async def targets_at(self, *hosts: str) -> list[Service]:
        """Targets on one port of several addresses, as the replicas of one name have it."""
        for _ in range(20):
            first = await self.target(host=hosts[0])
            try:
                return [first, *[await self.target(host=host, port=first.server.port) for host in hosts[1:]]]
            except PortTakenError:  # another's there; with another port it will do
                continue
        raise OSError(errno.EADDRINUSE, "no port is free on all addresses")

    async def orchestrator(
        self,
        targets: Sequence[Service | str],
        drafts: Sequence[Service | str] = (),
        *,
        lookup: Lookup = system_lookup,
        **settings: Any,
    ) -> Orchestrator:
        """settings: of the orchestrator. The services may be named by their endpoints."""
        configured = OrchestratorSettings(
            target=[_endpoint(each) for each in targets],
            draft=[_endpoint(each) for each in drafts],
            **{"connect_timeout_seconds": 2.0, "draft_patience_seconds": 5.0, **settings},
        )
        upstream = Upstream(
            configured.target,
            configured.draft,
            connect_timeout_seconds=configured.connect_timeout_seconds,
            target_patience_seconds=configured.target_patience_seconds,
            target_timeout_seconds=configured.target_timeout_seconds,
            stall_seconds=configured.stall_seconds,
            resolve_seconds=configured.resolve_seconds,
            lookup=lookup,
        )
        self.stack.push_async_callback(upstream.close)
        completions = Completions(TOKENIZER, upstream, configured)
        server = Server()
        await self.stack.enter_async_context(completion_service(server, completions, upstream))
        await self.stack.enter_async_context(server)
        channel = await self.stack.enter_async_context(grpc.aio.insecure_channel(server.address))
        return Orchestrator(completion_pb2_grpc.CompletionServiceStub(channel), upstream, completions, server, channel)


def _endpoint(service: Service | str) -> str:
    return service if isinstance(service, str) else service.address


@dataclass(slots=True)
class Orchestrator:
    """stub: calls it over `channel`."""

    stub: completion_pb2_grpc.CompletionServiceStub
    upstream: Upstream
    completions: Completions
    server: Server
    channel: grpc.aio.Channel

    async def complete(
        self, prompt: Sequence[int] = (1, 2), *, max_tokens: int = 8, policy: Any = OFF, **fields: Any
    ) -> completion_pb2.CompleteOnceResponse:
        request = make_request(list(prompt), speculation=policy, max_tokens=max_tokens, **fields)
        return await self.stub.CompleteOnce(completion_pb2.CompleteOnceRequest(completion=request), timeout=60.0)

    async def refusal(self, **fields: Any) -> TandemError:
        """The error of a completion; fails where there is none."""
        try:
            await self.complete(**fields)
        except grpc.aio.AioRpcError as error:
            return TandemError.from_rpc_error(error)
        raise AssertionError("the request was not refused")

    async def begin(self, **fields: Any) -> grpc.aio.UnaryStreamCall:
        """A completion that has begun; it goes on for long."""
        call = self.stub.Complete(make_request([3, 1], **{"speculation": OFF, "max_tokens": CONTEXT // 2, **fields}))
        first = await call.read()
        assert first.token_ids
        return call

    def metric(self, name: str, **labels: str) -> float:
        """As the metrics say now; 0 where there is no such series."""
        for family in text_string_to_metric_families(self.completions.telemetry.exposition().decode()):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return sample.value
        return 0.0

    async def load(self) -> completion_pb2.GetLoadResponse:
        return await self.stub.GetLoad(completion_pb2.GetLoadRequest())

    async def states(self) -> dict[str, str]:
        """Of all replicas, by address."""
        load, names = await self.load(), completion_pb2.ReplicaState.Name
        return {
            each.address: names(each.state).removeprefix("REPLICA_STATE_").lower()
            for each in (*load.targets, *load.drafts)
        }

    async def until(self, *services: Service, state: str = "ready") -> None:
        """Waits until all of them are in a state; fails by its deadline."""
        async with asyncio.timeout(20):
            while True:
                states = await self.states()
                if all(states.get(service.address) == state for service in services):
                    return
                await asyncio.sleep(0.01)


async def until_idle(*services: Service) -> None:
    """Waits until none holds a sequence or memory of one; fails by the deadline."""
    async with asyncio.timeout(20):
        while any(each.engine.load().sequences or each.engine.load().cache_bytes for each in services):
            await asyncio.sleep(0.01)


def channels_of(pool: ChannelPool) -> set[grpc.aio.Channel]:
    """All that it has, those that fail among them: leases would go round these."""
    return {connection.channel for connection in (*pool._connections, *pool._old)}


async def rest_of(call: grpc.aio.UnaryStreamCall) -> list[completion_pb2.CompleteResponse]:
    """What a completion that has been read from still says."""
    found = []
    while (response := await call.read()) is not grpc.aio.EOF:
        found.append(response)
    return found


@asynccontextmanager
async def fleet() -> AsyncGenerator[Fleet]:
    async with AsyncExitStack() as stack:
        yield Fleet(stack)
