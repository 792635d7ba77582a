"""Replaying services in processes of their own, a wire to the draft, and an orchestrator beside the caller."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc

from bench.overlap.costs import Costs
from bench.overlap.recording import PROMPT_LENGTH
from bench.overlap.vocabulary import tokenizer
from orchestrator.completions import Completions
from orchestrator.server import completion_service
from orchestrator.settings import OrchestratorSettings
from orchestrator.upstream import Upstream
from tandem.cli.errors import CliError
from tandem.rpc.server import Server
from tandem.telemetry import Telemetry
from tandem.v1 import completion_pb2, completion_pb2_grpc, policy_pb2

_START_SECONDS = 300.0


class Caller:
    """Of one orchestrator."""

    def __init__(self, stub: completion_pb2_grpc.CompletionServiceStub, temperature: float, seed: int) -> None:
        """temperature, seed: the recording's."""
        self._stub = stub
        self._temperature = temperature
        self._seed = seed

    async def complete(
        self, text: int, tokens: int, policy: policy_pb2.SpeculationPolicy, *, audit: bool = False
    ) -> tuple[list[int], completion_pb2.Finish, list[completion_pb2.RoundAccount]]:
        """The text's tokens as they were served, the end, and where asked for its rounds. Raises AioRpcError."""
        request = completion_pb2.CompleteRequest(
            tokens=completion_pb2.TokenIds(ids=[text] * PROMPT_LENGTH),
            max_tokens=tokens, speculation=policy, ignore_end_tokens=True, audit=audit,
        )  # fmt: skip
        request.sampling.temperature, request.sampling.seed = self._temperature, self._seed
        said, rounds, finish = list[int](), list[completion_pb2.RoundAccount](), completion_pb2.Finish()
        async for response in self._stub.Complete(request):
            said += response.token_ids
            if response.HasField("round"):
                rounds.append(response.round)
            if response.HasField("finish"):
                finish = response.finish
        return said, finish, rounds


@asynccontextmanager
async def process(*arguments: str) -> AsyncGenerator[str]:
    """The first line that `python -m ARGUMENTS` prints; ends it. Raises CliError where it prints none."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, stdout=asyncio.subprocess.PIPE
    )  # fmt: skip
    try:
        assert child.stdout is not None
        try:
            line = await asyncio.wait_for(child.stdout.readline(), _START_SECONDS)
        except TimeoutError:
            line = b""
        if not line:
            raise CliError(f"{arguments[0]} did not start")
        yield line.decode().strip()
    finally:
        if child.returncode is None:
            child.terminate()
        await child.wait()


@asynccontextmanager
async def replaying(
    recording: Path, costs: Costs, *, temperature: float, seed: int, **settings: Any
) -> AsyncGenerator[Caller]:
    """All that is needed for completions. settings: of the orchestrator."""
    async with AsyncExitStack() as stack:

        async def service(role: str) -> str:
            arguments = (role, str(recording), json.dumps(asdict(costs)))
            return await stack.enter_async_context(process("bench.overlap.service", *arguments))

        target, draft = await service("target"), await service("draft")
        if costs.wire:
            port = await stack.enter_async_context(process("bench.overlap.delay", draft, str(costs.wire)))
            draft = f"127.0.0.1:{port}"
        configured = OrchestratorSettings(target=(target,), draft=(draft,), http_port=None, **settings)
        telemetry = Telemetry()
        upstream = Upstream(
            configured.target,
            configured.draft,
            connect_timeout_seconds=configured.connect_timeout_seconds,
            target_patience_seconds=configured.target_patience_seconds,
            target_timeout_seconds=configured.target_timeout_seconds,
            stall_seconds=configured.stall_seconds,
            resolve_seconds=configured.resolve_seconds,
            max_waiting=configured.max_waiting,
            telemetry=telemetry,
        )
        stack.push_async_callback(upstream.close)
        server = Server()
        completions = Completions(tokenizer(), upstream, configured, telemetry)
        await stack.enter_async_context(completion_service(server, completions, upstream))
        await stack.enter_async_context(server)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address))
        yield Caller(completion_pb2_grpc.CompletionServiceStub(channel), temperature, seed)
