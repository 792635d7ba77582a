"""Services in processes of their own, wires to drafts, and an orchestrator beside the caller."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
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
from tandem.tokenization import Tokenizer
from tandem.v1 import completion_pb2, completion_pb2_grpc, policy_pb2

_START_SECONDS = 300.0


def replayed_prompt(text: int) -> Sequence[int]:
    """What a recorded text begins with in a replay."""
    return [text] * PROMPT_LENGTH


class Caller:
    """Of one orchestrator."""

    def __init__(
        self,
        stub: completion_pb2_grpc.CompletionServiceStub,
        temperature: float,
        seed: int,
        prompt: Callable[[int], Sequence[int]] = replayed_prompt,
    ) -> None:
        """temperature, seed: the recording's. prompt: token ids by the text's index."""
        self._stub = stub
        self._prompt = prompt
        self._temperature = temperature
        self._seed = seed

    async def complete(
        self, text: int, tokens: int, policy: policy_pb2.SpeculationPolicy, *, audit: bool = False
    ) -> tuple[list[int], completion_pb2.Finish, list[completion_pb2.RoundAccount]]:
        """The text's tokens as they were served, the end, and where asked for its rounds. Raises AioRpcError."""
        request = completion_pb2.CompleteRequest(
            tokens=completion_pb2.TokenIds(ids=self._prompt(text)),
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


@dataclass(slots=True)
class Process:
    """line: the first that it printed. rest: what it printed after that, known when it has ended."""

    line: str
    process_id: int
    rest: str = ""


@asynccontextmanager
async def process(*arguments: str) -> AsyncGenerator[Process]:
    """Runs `python -m ARGUMENTS`, and ends it. Raises CliError where it prints no line."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, stdout=asyncio.subprocess.PIPE
    )  # fmt: skip
    started = Process("", child.pid)
    try:
        assert child.stdout is not None
        try:
            line = await asyncio.wait_for(child.stdout.readline(), _START_SECONDS)
        except TimeoutError:
            line = b""
        if not line:
            raise CliError(f"{arguments[0]} did not start")
        started.line = line.decode().strip()
        yield started
    finally:
        if child.returncode is None:
            child.terminate()
        if started.line and child.stdout is not None:
            started.rest = (await child.stdout.read()).decode()
        await child.wait()


@asynccontextmanager
async def delayed(address: str, milliseconds: float) -> AsyncGenerator[str]:
    """An address that leads there with so much delay one way. Raises CliError."""
    if not milliseconds:
        yield address
        return
    async with process("bench.overlap.delay", address, str(milliseconds)) as wire:
        yield f"127.0.0.1:{wire.line}"


@asynccontextmanager
async def orchestrated(
    targets: Sequence[str], drafts: Sequence[str], words: Tokenizer, **settings: Any
) -> AsyncGenerator[completion_pb2_grpc.CompletionServiceStub]:
    """An orchestrator in this process. words: the tokenizer of the targets. settings: of the orchestrator."""
    async with AsyncExitStack() as stack:
        configured = OrchestratorSettings(target=tuple(targets), draft=tuple(drafts), http_port=None, **settings)
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
        completions = Completions(words, upstream, configured, telemetry)
        await stack.enter_async_context(completion_service(server, completions, upstream))
        await stack.enter_async_context(server)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address))
        yield completion_pb2_grpc.CompletionServiceStub(channel)


@asynccontextmanager
async def replaying(
    recording: Path, costs: Costs, *, temperature: float, seed: int, **settings: Any
) -> AsyncGenerator[Caller]:
    """All that is needed for completions. settings: of the orchestrator."""
    async with AsyncExitStack() as stack:

        async def service(role: str) -> str:
            arguments = (role, str(recording), json.dumps(asdict(costs)))
            return (await stack.enter_async_context(process("bench.overlap.service", *arguments))).line

        target, draft = await service("target"), await service("draft")
        near = await stack.enter_async_context(delayed(draft, costs.wire))
        stub = await stack.enter_async_context(orchestrated([target], [near], tokenizer(), **settings))
        yield Caller(stub, temperature, seed)
