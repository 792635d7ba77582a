"""A caller's deadline goes with its request to the last queue, and what it ends is nobody's failure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import pytest

from orchestrator.deadline import DEADLINE, Deadline, due
from orchestrator.streams import DraftStream, TargetStream
from tandem.rpc.errors import TandemError
from tandem.rpc.handshake import make_handshake
from tandem.rpc.server import Server
from tandem.v1 import block_pb2, completion_pb2, draft_pb2, model_pb2, sampling_pb2, target_pb2, target_pb2_grpc
from tandem.wire import model_info
from target_service.server import TargetServicer
from tests.support.fleet import CONTEXT, TOKENIZER, Fleet, fleet
from tests.support.gate import Gate, until
from tests.support.tiny import tiny_llama
from tests.support.trio import OFF, make_request, policy, serve_model

BLOCKS = policy("fixed", "exact", max_tokens=3)
ENDLESS: dict[str, Any] = {"max_tokens": CONTEXT // 2, "ignore_end_tokens": True}


@pytest.fixture
async def made() -> AsyncIterator[Fleet]:
    async with fleet() as running:
        yield running


def test_without_a_deadline_there_is_none_and_after_it_nothing_is_left() -> None:
    assert DEADLINE.get().left() is None
    with due(100):
        left = DEADLINE.get().left()
        assert left is not None and 99 < left <= 100
        with due(None):
            assert DEADLINE.get().left() is None
    assert DEADLINE.get().left() is None
    assert Deadline(-1.0).left() == 0.0


class Timed(TargetServicer):
    """A target that notes what time its streams have."""

    left: list[float | None]

    async def Verify(self, request_iterator: Any, context: grpc.aio.ServicerContext) -> AsyncGenerator[Any]:
        self.left.append(context.time_remaining())
        async with aclosing(super().Verify(request_iterator, context)) as responses:
            async for response in responses:
                yield response


async def test_a_request_that_its_deadline_ends_is_not_counted_as_one_whose_caller_left(made: Fleet) -> None:
    target = await made.target()
    orchestrator = await made.orchestrator([target])
    await orchestrator.complete()
    long = make_request([1], speculation=OFF, max_tokens=CONTEXT // 2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await orchestrator.stub.CompleteOnce(completion_pb2.CompleteOnceRequest(completion=long), timeout=1.0)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    (await orchestrator.begin()).cancel()

    def count(outcome: str) -> float:
        return orchestrator.metric("tandem_requests_total", route="grpc", outcome=outcome)

    async with asyncio.timeout(20):
        while count("DEADLINE_EXCEEDED") + count("cancelled") < 2:
            await asyncio.sleep(0.01)
    assert (count("DEADLINE_EXCEEDED"), count("cancelled"), count("ok")) == (1, 1, 1)


async def test_the_targets_streams_have_the_callers_time(made: Fleet) -> None:
    served = serve_model(tiny_llama(1, context=CONTEXT), TOKENIZER)
    served.engine.start()
    made.stack.push_async_callback(served.engine.close)
    servicer, server = Timed(served.engine, model_info(served), served.grammars), Server()
    servicer.left = []
    server.add(target_pb2_grpc.add_TargetServiceServicer_to_server, servicer, "tandem.v1.TargetService")
    await made.stack.enter_async_context(server)
    orchestrator = await made.orchestrator([server.address])
    request = make_request([1], speculation=OFF, max_tokens=3)
    for timeout in (500.0, None):
        async for _ in orchestrator.stub.Complete(request, timeout=timeout):
            pass
        await orchestrator.stub.CompleteOnce(completion_pb2.CompleteOnceRequest(completion=request), timeout=timeout)
    assert all(left is not None and 400 < left < 502 for left in servicer.left[:2]), servicer.left
    assert servicer.left[2:] == [None, None]


@pytest.mark.parametrize("side", ["target", "draft"])
async def test_a_stream_that_the_deadline_ends_is_no_failure_of_its_replica(made: Fleet, side: str) -> None:
    """Not even where the orchestrator is late to notice, as here, where nobody ends the request."""
    models = [tiny_llama(1, context=CONTEXT, noise=noise) for noise in (0.0, 0.02)]
    gate = Gate(models[side == "draft"])
    target, draft = await made.target(models[0]), await made.draft(models[1])
    orchestrator = await made.orchestrator([target], [draft])
    await orchestrator.until(target, draft)
    gate.close()
    pair = await orchestrator.upstream.pair(speculates=True)
    assert pair.draft is not None
    opening: dict[str, Any] = {
        "prompt_token_ids": [1, 2], "verification": sampling_pb2.VERIFICATION_RULE_GREEDY,
        "random_key": sampling_pb2.RandomKey(seed=1),
    }  # fmt: skip
    own = model_pb2.ModelInfo(
        model_id="test", tokenizer_fingerprint=TOKENIZER.fingerprint, vocabulary_size=pair.target.model.vocabulary_size
    )
    lease = pair.target if side == "target" else pair.draft
    at = block_pb2.Continuation(position=2)
    with due(0.5), pytest.raises(TandemError) as caught:
        if side == "target":
            verify = TargetStream.at(lease)
            await verify.open(target_pb2.VerifyOpen(handshake=make_handshake(own), **opening))
            await verify.round(target_pb2.VerifyRound(round=1, continuation=at, block=block_pb2.Block(position=2)))
        else:
            drafts = DraftStream.at(lease)
            drafts.open(draft_pb2.DraftOpen(handshake=make_handshake(own), **opening))
            limits = draft_pb2.DraftLimits(max_tokens=3)
            await drafts.round(draft_pb2.DraftRound(round=1, continuation=at, limits=limits))
    assert (caught.value.reason, caught.value.code) == ("DEADLINE_EXCEEDED", grpc.StatusCode.DEADLINE_EXCEEDED)
    assert lease.replica.problem is None and lease.replica.state == "ready"
    held = (target if side == "target" else draft).engine
    await until(lambda: held.load().sequences == 0)  # though nobody has closed the stream
    gate.open()
    pair.release()


@pytest.mark.parametrize("chosen", [OFF, BLOCKS], ids=["alone", "with a draft"])
@pytest.mark.parametrize("method", ["Complete", "CompleteOnce"])
async def test_who_is_out_of_time_is_told_so_and_leaves_nothing(made: Fleet, method: str, chosen: Any) -> None:
    target, draft = await made.target(), await made.draft()
    orchestrator = await made.orchestrator([target], [draft])
    await orchestrator.until(target, draft)
    request: Any = make_request([1, 2], speculation=chosen, **ENDLESS)
    began = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if method == "Complete":
            async for _ in orchestrator.stub.Complete(request, timeout=0.6):
                pass
        else:
            request = completion_pb2.CompleteOnceRequest(completion=request)
            await orchestrator.stub.CompleteOnce(request, timeout=0.6)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED and time.monotonic() - began < 10
    await until(lambda: not any(each.engine.load().sequences for each in (target, draft)))
    await until(lambda: orchestrator.completions._under_way == 0)
    # None of it was a failure of theirs.
    assert set((await orchestrator.states()).values()) == {"ready"}
    found = await orchestrator.complete(policy=chosen)
    assert len(found.token_ids) == 8 and found.finish.speculation.draft_failures == 0


async def test_who_waits_for_a_target_is_told_at_the_deadline(made: Fleet) -> None:
    target = await made.target()
    orchestrator = await made.orchestrator([target], connect_timeout_seconds=60.0)
    await orchestrator.until(target)
    await target.kill()
    await orchestrator.until(target, state="failed")
    began = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await orchestrator.stub.CompleteOnce(
            completion_pb2.CompleteOnceRequest(completion=make_request([1], speculation=OFF)), timeout=0.5
        )
    # UNAVAILABLE where the orchestrator gives up in time to say why.
    assert caught.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
    assert time.monotonic() - began < 10
    await until(lambda: orchestrator.upstream._targets._waiting == 0)


async def test_time_that_is_over_before_it_began_costs_no_step(made: Fleet) -> None:
    loaded = tiny_llama(1, context=CONTEXT)
    gate = Gate(loaded)
    target = await made.target(loaded)
    orchestrator = await made.orchestrator([target])
    await orchestrator.until(target)
    before = gate.passes
    with due(0.0), pytest.raises(TandemError) as caught:
        async for _ in orchestrator.completions.stream(make_request([1], speculation=OFF)):
            pass
    assert caught.value.reason == "DEADLINE_EXCEEDED" and gate.passes == before
    await until(lambda: orchestrator.completions._under_way == 0)
