"""The three services in one process, over real grpc.aio servers on free ports, with any models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from draft_service.drafters.base import Drafter
from draft_service.drafters.model import ModelDrafter
from draft_service.server import DraftServicer
from orchestrator.completions import Completions
from orchestrator.server import completion_service
from orchestrator.settings import OrchestratorSettings
from orchestrator.upstream import Upstream
from tandem.grammars import Grammars
from tandem.inference.engine import Engine, EngineLimits
from tandem.inference.loaded import LoadedModel
from tandem.inference.runner import ModelRunner
from tandem.inference.serving import ServedModel
from tandem.policies import policy_from_names
from tandem.rpc.channels import connect
from tandem.rpc.errors import TandemError
from tandem.rpc.server import Server
from tandem.rpc.tls import ClientTls, ServerTls
from tandem.telemetry import Telemetry
from tandem.telemetry.services import ModelTelemetry
from tandem.tokenization import Tokenizer
from tandem.v1 import completion_pb2, completion_pb2_grpc, draft_pb2_grpc, policy_pb2, target_pb2_grpc
from tandem.wire import model_info
from target_service.server import TargetServicer

OFF = policy_pb2.SpeculationPolicy(off=True)


@dataclass(slots=True)
class Telemetries:
    """Of the three services."""

    orchestrator: Telemetry = field(default_factory=Telemetry)
    draft: ModelTelemetry = field(default_factory=lambda: ModelTelemetry("draft"))
    target: ModelTelemetry = field(default_factory=lambda: ModelTelemetry("target"))


@dataclass(slots=True)
class Trio:
    """Running services; `stub` calls the orchestrator."""

    stub: completion_pb2_grpc.CompletionServiceStub
    target: Server
    draft: Server | None
    target_engine: Engine
    draft_engine: Engine | None
    orchestrator: Server
    completions: Completions

    async def complete(
        self, prompt: list[int], *, policy: policy_pb2.SpeculationPolicy = OFF, timeout: float = 60.0, **fields: object
    ) -> completion_pb2.CompleteOnceResponse:
        """One completion of token ids. fields: of CompleteRequest; `sampling` may be a dict."""
        request = make_request(prompt, speculation=policy, **fields)
        return await self.stub.CompleteOnce(completion_pb2.CompleteOnceRequest(completion=request), timeout=timeout)

    async def refusal(self, request: completion_pb2.CompleteRequest) -> TandemError:
        """The error with which the stream of `request` ends; fails where it ends well."""
        try:
            async for _ in self.stub.Complete(request, timeout=60.0):
                pass
        except grpc.aio.AioRpcError as error:
            return TandemError.from_rpc_error(error)
        raise AssertionError("the request was not refused")


def make_request(prompt: list[int], **fields: object) -> completion_pb2.CompleteRequest:
    return completion_pb2.CompleteRequest(tokens=completion_pb2.TokenIds(ids=prompt), **fields)


def serve_model(
    loaded: LoadedModel,
    tokenizer: Tokenizer,
    name: str = "tiny",
    *,
    fingerprint: str | None = None,
    cache_bytes: int | None = None,
    limits: EngineLimits | None = None,
    runner: type[ModelRunner] = ModelRunner,
) -> ServedModel:
    """An engine for a model that was made, not loaded."""
    engine = Engine(runner(loaded, cache_bytes=cache_bytes), limits)
    return ServedModel(engine, loaded, name, "", fingerprint or tokenizer.fingerprint, Grammars(tokenizer))


@asynccontextmanager
async def trio(
    target: LoadedModel,
    draft: LoadedModel | Drafter | None,
    tokenizer: Tokenizer,
    *,
    draft_fingerprint: str | None = None,
    draft_address: str | None = None,
    target_cache_bytes: int | None = None,
    draft_cache_bytes: int | None = None,
    target_limits: EngineLimits | None = None,
    draft_limits: EngineLimits | None = None,
    telemetry: Telemetries | None = None,
    tls: ServerTls | None = None,
    caller_tls: ClientTls | None = None,
    serve_target: Callable[..., Any] = TargetServicer,
    serve_draft: Callable[..., Any] = DraftServicer,
    middle: LoadedModel | None = None,
    serve_middle: Callable[..., Any] = TargetServicer,
    **settings: object,
) -> AsyncGenerator[Trio]:
    """Starts all that is needed and stops it.

    draft_address: what to take for a draft where none is started. tls: of all three; caller_tls: of `stub`.
    serve_target, serve_draft, serve_middle: what makes their servicers. middle: of a stack; None for none. settings: of
    the orchestrator.
    """
    told = telemetry or Telemetries()
    async with AsyncExitStack() as stack:
        served = serve_model(target, tokenizer, cache_bytes=target_cache_bytes, limits=target_limits)
        served.engine.start()
        stack.push_async_callback(served.engine.close)
        target_server = Server(observers=told.target.interceptors(), tls=tls)
        target_server.add(
            target_pb2_grpc.add_TargetServiceServicer_to_server,
            serve_target(served.engine, model_info(served), served.grammars, told.target),
            "tandem.v1.TargetService",
        )
        await stack.enter_async_context(target_server)
        draft_server, draft_engine, grammars = None, None, None
        if draft is not None:
            if isinstance(draft, LoadedModel):
                drafting = serve_model(
                    draft, tokenizer, "tiny-draft",
                    fingerprint=draft_fingerprint, cache_bytes=draft_cache_bytes, limits=draft_limits,
                )  # fmt: skip
                grammars = drafting.grammars
                draft_engine = drafting.engine
                draft = ModelDrafter(drafting.engine, model_info(drafting), sayable=drafting.loaded.sayable)
            await draft.start()
            stack.push_async_callback(draft.close)
            draft_server = Server(observers=told.draft.interceptors(), tls=tls)
            servicer = serve_draft(draft, grammars, told.draft)
            draft_server.add(
                draft_pb2_grpc.add_DraftServiceServicer_to_server, servicer, "tandem.v1.DraftService"
            )
            await stack.enter_async_context(draft_server)
        middle_address = "none"
        if middle is not None:
            between = serve_model(middle, tokenizer, "tiny-middle")
            between.engine.start()
            stack.push_async_callback(between.engine.close)
            middle_server = Server(tls=tls)
            middle_server.add(
                target_pb2_grpc.add_TargetServiceServicer_to_server,
                serve_middle(between.engine, model_info(between), between.grammars),
                "tandem.v1.TargetService",
            )
            await stack.enter_async_context(middle_server)
            middle_address = middle_server.address
        configured = OrchestratorSettings(
            target=target_server.address,
            middle=middle_address,
            draft=draft_server.address if draft_server else draft_address,
            **{"connect_timeout_seconds": 2.0, "draft_patience_seconds": 5.0, **settings},
        )
        upstream = Upstream(
            configured.target,
            configured.draft,
            configured.middle,
            connect_timeout_seconds=configured.connect_timeout_seconds,
            target_patience_seconds=configured.target_patience_seconds,
            target_timeout_seconds=configured.target_timeout_seconds,
            stall_seconds=configured.stall_seconds,
            resolve_seconds=configured.resolve_seconds,
            max_waiting=configured.max_waiting,
            telemetry=told.orchestrator,
            tls=configured.upstream_tls(),
        )
        stack.push_async_callback(upstream.close)
        orchestrator = Server(observers=told.orchestrator.interceptors(), tls=tls)
        completions = Completions(tokenizer, upstream, configured, told.orchestrator)
        await stack.enter_async_context(completion_service(orchestrator, completions, upstream))
        await stack.enter_async_context(orchestrator)
        while middle is not None and not upstream.count("middle", "ready"):
            await asyncio.sleep(0.01)
        if caller_tls is None:
            channel = grpc.aio.insecure_channel(orchestrator.address)
        else:
            channel = connect(orchestrator.address, caller_tls)
        await stack.enter_async_context(channel)
        stub = completion_pb2_grpc.CompletionServiceStub(channel)
        yield Trio(stub, target_server, draft_server, served.engine, draft_engine, orchestrator, completions)


def policy(stop: str = "fixed", accept: str = "exact", **options: float | None) -> policy_pb2.SpeculationPolicy:
    return policy_from_names(stop, accept, **options)
