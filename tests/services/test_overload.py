"""More is asked for than can be done: those who are let in are served, the others are told so at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import pytest

from orchestrator import admission
from orchestrator.throughput import Pace
from tandem.inference.engine import EngineLimits
from tandem.rpc.channels import connect
from tandem.rpc.errors import TandemError
from tandem.rpc.handshake import make_handshake
from tandem.v1 import completion_pb2, model_pb2, sampling_pb2, target_pb2, target_pb2_grpc
from tests.support.fleet import Fleet, fleet, rest_of
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import OFF, Telemetries, make_request, policy, trio
from tests.telemetry.reading import Reading

TOKENIZER = byte_tokenizer(64)
BLOCKS = policy("fixed", "exact", max_tokens=4)
ONE = EngineLimits(max_sequences=1)


@pytest.fixture
async def made() -> AsyncIterator[Fleet]:
    async with fleet() as running:
        yield running


def overloaded(error: TandemError) -> bool:
    assert (error.reason, error.code) == ("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED), error
    return error.retry_after is not None and 0 < error.retry_after <= 30


async def test_who_comes_while_a_target_is_full_is_served_once_there_is_room(made: Fleet) -> None:
    target = await made.target(limits=ONE)
    orchestrator = await made.orchestrator([target], connect_timeout_seconds=20.0)
    held = await orchestrator.begin()
    waiting = [asyncio.create_task(orchestrator.complete()) for _ in range(4)]
    await asyncio.sleep(0.3)
    assert not any(task.done() for task in waiting)
    held.cancel()
    assert [len((await task).token_ids) for task in waiting] == [8] * 4


async def test_who_waits_for_a_full_target_sends_it_nothing(made: Fleet) -> None:
    target = await made.target(limits=ONE)
    held = await target.engine.open()
    orchestrator = await made.orchestrator([target], connect_timeout_seconds=1.0)
    await orchestrator.until(target)
    errors = await asyncio.gather(*(orchestrator.refusal() for _ in range(3)))
    assert all(map(overloaded, errors))
    assert target.streams == 3 and target.engine.load().prefilled_tokens == 0
    await target.engine.release(held)


async def test_of_a_callers_time_half_is_left_for_its_completion(made: Fleet) -> None:
    target = await made.target(limits=ONE)
    held = await target.engine.open()
    orchestrator = await made.orchestrator([target], connect_timeout_seconds=60.0)
    await orchestrator.until(target)
    began = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        request = completion_pb2.CompleteOnceRequest(completion=make_request([1, 2], speculation=OFF, max_tokens=4))
        await orchestrator.stub.CompleteOnce(request, timeout=8.0)
    assert overloaded(TandemError.from_rpc_error(caught.value))
    assert 3.5 < time.monotonic() - began < 8.0
    await target.engine.release(held)


async def test_beyond_the_orchestrators_bounds_a_request_is_refused_before_it_costs_anything(made: Fleet) -> None:
    target = await made.target()
    orchestrator = await made.orchestrator([target], max_completions=1, max_waiting=1)
    held = await orchestrator.begin()
    waiting = asyncio.create_task(orchestrator.complete())
    async with asyncio.timeout(20):
        while not orchestrator.completions._admission.waiting:
            await asyncio.sleep(0.01)
    for _ in range(3):
        assert overloaded(await orchestrator.refusal())
    assert target.streams == 1
    held.cancel()
    assert len((await waiting).token_ids) == 8
    assert orchestrator.completions._admission.under_way == 0


async def test_a_deadline_that_cannot_be_kept_is_refused_by_the_target_without_a_step(made: Fleet) -> None:
    target = await made.target()
    target.engine._admission.stepped(100.0, 100, computed=100, found=0)  # a second for each token
    opening = target_pb2.VerifyOpen(
        handshake=make_handshake(model_pb2.ModelInfo()), prompt_token_ids=[1] * 400,
        verification=sampling_pb2.VERIFICATION_RULE_GREEDY,
    )  # fmt: skip
    async with connect(target.address) as channel:
        stub = target_pb2_grpc.TargetServiceStub(channel)
        for seconds, is_taken in ((20.0, False), (2000.0, True), (None, True)):
            call = stub.Verify(timeout=seconds)
            await call.write(target_pb2.VerifyRequest(open=opening))
            if is_taken:
                assert (await call.read()).HasField("opened")
            else:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call.read()
                error = TandemError.from_rpc_error(caught.value)
                assert error.reason == "OVERLOADED" and error.metadata["limit"] == "deadline" and error.retry_after
            call.cancel()
    assert target.engine.load().prefilled_tokens == 0


async def test_only_as_many_are_let_in_as_end_in_time_and_the_others_know_at_once(
    made: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty come at once, and ten at most would end in time together."""
    monkeypatch.setattr(admission, "_SHED_SECONDS", 0.0)
    target = await made.target()
    orchestrator = await made.orchestrator([target])
    pace = orchestrator.completions._admission.pace
    for n in range(1, 10):
        pace.add(n, 200, 200 * 0.05 * n)  # as on a machine on which a token takes so long
    pace.ended(100, 100)
    for learns in ("began", "add", "ended", "judged"):  # nor does it get quicker, whatever machine this is
        monkeypatch.setattr(Pace, learns, lambda *_: None)

    async def caller() -> TandemError | None:
        request = completion_pb2.CompleteOnceRequest(completion=make_request([1, 2], speculation=OFF, max_tokens=100))
        try:
            await orchestrator.stub.CompleteOnce(request, timeout=60.0)
        except grpc.aio.AioRpcError as error:
            return TandemError.from_rpc_error(error)
        return None

    found = await asyncio.gather(*(caller() for _ in range(60)))
    errors = [error for error in found if error is not None]
    assert all(map(overloaded, errors)) and 8 <= 60 - len(errors) == target.streams <= 20


@pytest.mark.parametrize("stop", ["fixed", "adasd", "entropy", "confidence", "adaedl"])
async def test_speculation_ends_where_a_target_is_full_and_the_text_is_the_same(stop: str) -> None:
    told, limits = Telemetries(), EngineLimits(max_sequences=3)
    model = tiny_llama(1)
    async with trio(model, tiny_llama(1, noise=0.02), TOKENIZER, target_limits=limits, telemetry=told) as services:
        rules = policy(stop, "exact")
        sampling = {"temperature": 0}
        alone = await services.complete([1, 2], max_tokens=40, sampling=sampling)
        free = await services.complete([1, 2], policy=rules, max_tokens=40, sampling=sampling)
        found = Reading.of(told.orchestrator.metrics)
        assert free.token_ids == alone.token_ids and free.finish.speculation.drafted_tokens > 0
        assert not found("tandem_fallback_tokens_total", reason="overload")
        held = [await services.target_engine.open() for _ in range(2)]
        await services.stub.GetLoad(completion_pb2.GetLoadRequest())  # the orchestrator hears of it
        shed = await services.complete([1, 2], policy=rules, max_tokens=40, sampling=sampling)
        assert shed.token_ids == alone.token_ids
        report = shed.finish.speculation
        assert report.drafted_tokens == 0 and report.draft_failures == 0 and report.plain_tokens >= 39
        assert Reading.of(told.orchestrator.metrics)("tandem_fallback_tokens_total", reason="overload") == 39
        for each in held:
            await services.target_engine.release(each)


async def test_a_drained_orchestrator_ends_what_is_left_with_a_word(made: Fleet) -> None:
    target = await made.target()
    orchestrator = await made.orchestrator([target])
    orchestrator.server.grace_seconds = 1.0
    call = await orchestrator.begin()
    short = asyncio.create_task(orchestrator.complete(max_tokens=4))
    await asyncio.sleep(0.05)
    draining = asyncio.create_task(orchestrator.server.drain())
    assert len((await short).token_ids) == 4
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rest_of(call)
    error = TandemError.from_rpc_error(caught.value)
    assert (error.reason, error.code) == ("SHUTTING_DOWN", grpc.StatusCode.UNAVAILABLE) and error.retry_after
    await asyncio.wait_for(draining, 20)
    async with asyncio.timeout(20):
        while target.engine.load().sequences:
            await asyncio.sleep(0.01)
