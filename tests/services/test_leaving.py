"""Nothing is run for a caller that is gone, wherever its request is: from the search for a target to the engines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from tandem.inference.engine import EngineLimits
from tandem.v1 import completion_pb2, completion_pb2_grpc
from tests.gateway.serving import LOSSLESS, TOKENIZER, Gateway, gateway
from tests.support.gate import Gate, until
from tests.support.tiny import tiny_llama
from tests.support.trio import OFF, make_request, policy

CONTEXT = 8192
LONG = [1 + at % 200 for at in range(600)]


@dataclass(slots=True)
class Gated:
    """Services whose models can be made to stand still."""

    served: Gateway
    target: Gate
    draft: Gate

    @property
    def passes(self) -> tuple[int, int]:
        return self.target.passes, self.draft.passes

    @property
    def sequences(self) -> int:
        """That the services hold, as they know it without their engines' threads."""
        return sum(engine.load().sequences for engine in self._engines())

    @property
    def is_idle(self) -> bool:
        return not any(engine.load().sequences or engine.load().cache_bytes for engine in self._engines())

    def _engines(self) -> list[Any]:
        return [self.served.services.target_engine, self.served.services.draft_engine]


@pytest.fixture
async def gated() -> AsyncGenerator[Gated]:
    target, draft = (tiny_llama(5, vocabulary=257, context=CONTEXT, noise=noise) for noise in (0.0, 0.02))
    gates = Gate(target), Gate(draft)
    limits = EngineLimits(step_tokens=32)
    async with gateway(target, draft, TOKENIZER, target_limits=limits, draft_limits=limits) as served:
        await until(lambda: served.completions._upstream.count("draft", "ready") == 1)
        try:
            yield Gated(served, *gates)
        finally:
            for gate in gates:
                gate.open()


Leave = Callable[[], None]
Begin = Callable[[Gateway, dict[str, Any]], Any]


@asynccontextmanager
async def by_grpc(served: Gateway, fields: dict[str, Any]) -> AsyncGenerator[Leave]:
    """Leaves by cancelling the call."""
    call = served.stub.Complete(completion_pb2.CompleteRequest(**fields))
    yield call.cancel


@asynccontextmanager
async def by_one_answer(served: Gateway, fields: dict[str, Any]) -> AsyncGenerator[Leave]:
    request = completion_pb2.CompleteOnceRequest(completion=completion_pb2.CompleteRequest(**fields))
    call = served.stub.CompleteOnce(request)
    yield call.cancel


@asynccontextmanager
async def by_connection(served: Gateway, fields: dict[str, Any]) -> AsyncGenerator[Leave]:
    """Leaves by closing the connection with the call on it."""
    address = f"127.0.0.1:{served.stub_port}"
    channel = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
    call = completion_pb2_grpc.CompletionServiceStub(channel).Complete(completion_pb2.CompleteRequest(**fields))
    yield lambda: void(asyncio.ensure_future(channel.close()))
    call.cancel()
    await channel.close()


def void(_: object) -> None:
    """For what has no result that matters."""


@asynccontextmanager
async def by_http(
    served: Gateway, fields: dict[str, Any], *, path: str = "/tandem/v1/complete"
) -> AsyncGenerator[Leave]:
    """Leaves by cutting the connection."""
    body = json.dumps(_native(fields) if path.startswith("/tandem") else _openai(fields)).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    _, writer = await asyncio.open_connection(served.server.host, served.server.port)
    writer.write(head.encode() + body)
    yield writer.transport.abort


def by_http_in_one_piece(served: Gateway, fields: dict[str, Any]) -> Any:
    return by_http(served, fields, path="/v1/completions")


def _native(fields: dict[str, Any]) -> dict[str, Any]:
    speculation = {"off": True} if fields["speculation"] is OFF else LOSSLESS
    return {**fields, "speculation": speculation}


def _openai(fields: dict[str, Any]) -> dict[str, Any]:
    native = _native(fields)
    return {
        "model": "tiny", "prompt": fields["tokens"]["ids"], "max_tokens": fields["max_tokens"], "ignore_eos": True,
        "speculation": native["speculation"], "temperature": 0,
    }  # fmt: skip


WAYS: dict[str, Begin] = {
    "cancels its call": by_grpc,
    "cancels its call for one answer": by_one_answer,
    "closes its connection": by_connection,
    "cuts a stream of HTTP": by_http,
    "cuts a request of HTTP": by_http_in_one_piece,
}

BLOCKS = policy("fixed", "exact", max_tokens=3)
#: Where the request is when its caller leaves: whose model stands still, at which pass, with what prompt.
STAGES: dict[str, tuple[str, int, list[int], Any]] = {
    "its prompt is taken in by pieces": ("target", 3, LONG, OFF),
    "the target makes tokens": ("target", 10, [1, 2], OFF),
    "a block is verified": ("target", 5, [1, 2], BLOCKS),
    "a block is drafted": ("draft", 8, [1, 2], BLOCKS),
    "its prompt is taken in by the draft": ("draft", 3, LONG, BLOCKS),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stage", STAGES)
async def test_no_step_is_begun_for_one_who_is_gone(gated: Gated, stage: str, way: str) -> None:
    side, after, prompt, chosen = STAGES[stage]
    gate: Gate = getattr(gated, side)
    gate.close(after)
    fields = {"tokens": {"ids": prompt}, "max_tokens": 4000, "ignore_end_tokens": True, "speculation": chosen}
    async with WAYS[way](gated.served, fields) as leave:
        await until(lambda: gate.is_held)
        leave()
        await until(lambda: gated.sequences == 0)
        passes, all_passes = gate.passes, sum(gated.passes)
        gate.open()
        await until(lambda: gated.is_idle and gated.served.completions._under_way == 0)
        assert gate.passes == passes
        # The other service may have been about to begin its step when the caller left.
        assert sum(gated.passes) <= all_passes + 1


@pytest.mark.parametrize("way", WAYS)
async def test_one_who_waits_for_a_first_step_takes_nothing_with_it(gated: Gated, way: str) -> None:
    """Another's step goes on for so long that it never gets one."""
    target = gated.served.services.target_engine
    gated.target.close(6)
    first = asyncio.ensure_future(
        gated.served.grpc_request(make_request([3, 1], speculation=OFF, max_tokens=20, ignore_end_tokens=True))
    )
    await until(lambda: gated.target.is_held)
    before = target.load().prefilled_tokens
    fields = {"tokens": {"ids": LONG}, "max_tokens": 4000, "ignore_end_tokens": True, "speculation": OFF}
    async with WAYS[way](gated.served, fields) as leave:
        await until(lambda: target.load().sequences == 2)
        leave()
        await until(lambda: target.load().sequences == 1)
        gated.target.open()
        assert len((await first).token_ids) == 20
    assert target.load().prefilled_tokens == before
    await until(lambda: gated.is_idle)


@pytest.mark.parametrize("way", WAYS)
async def test_one_who_waits_for_a_target_waits_no_more(way: str) -> None:
    async with gateway(tiny_llama(5, vocabulary=257), None, TOKENIZER, connect_timeout_seconds=60.0) as served:
        served.services.target.grace_seconds = 0
        await served.services.target.drain()
        targets = served.completions._upstream._targets
        await until(lambda: not targets.ready)
        fields = {"tokens": {"ids": [1]}, "max_tokens": 5, "ignore_end_tokens": True, "speculation": OFF}
        async with WAYS[way](served, fields) as leave:
            await until(lambda: targets._waiting > 0)
            leave()
            await until(lambda: targets._waiting == 0 and served.completions._under_way == 0)


async def test_one_who_never_reads_costs_bounded_memory_and_no_more_steps(gated: Gated) -> None:
    request = make_request(
        [1, 2], speculation=BLOCKS, max_tokens=CONTEXT - 2, ignore_end_tokens=True, audit=True, log_probabilities=20
    )
    # Whatever a connection takes in before it is read is as much as its caller's gRPC says.
    small = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536), ("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{gated.served.stub_port}", options=small)
    call = completion_pb2_grpc.CompletionServiceStub(channel).Complete(request)
    await until(lambda: gated.target.passes > 0)
    seen, still = -1, 0
    async with asyncio.timeout(60):
        while still < 10:
            await asyncio.sleep(0.05)
            still = still + 1 if gated.target.passes == seen else 0
            seen = gated.target.passes
    assert seen < CONTEXT / 2, "all of it was made for nobody"
    for _ in range(3):
        answer = await gated.served.grpc_request(
            make_request([5], speculation=OFF, max_tokens=10, ignore_end_tokens=True)
        )
        assert len(answer.token_ids) == 10
    # Whoever reads on gets the rest.
    read = [token for _ in range(200) for token in (await call.read()).token_ids]
    assert len(read) >= 200
    call.cancel()
    await channel.close()
    await until(lambda: gated.is_idle)
