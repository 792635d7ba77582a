"""The metrics of draft and target: sessions, calls, steps, and the load of their engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from draft_service.drafters.prompt_lookup import PromptLookupDrafter
from tandem.inference.engine import EngineLimits, EngineLoad
from tandem.inference.observer import StepReport
from tandem.rpc.channels import connect
from tandem.telemetry.services import ModelTelemetry
from tandem.v1 import model_pb2, target_pb2, target_pb2_grpc
from tests.inference.works import GatedRunner as Runner
from tests.inference.works import Greedy, alone, started
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import OFF, Telemetries, make_request, policy, trio
from tests.telemetry.reading import Reading

TOKENIZER = byte_tokenizer(64)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_completion_moves_what_it_should_on_both_services() -> None:
    told, prompt = Telemetries(), list(range(1, 41))
    async with trio(tiny_llama(2), tiny_llama(2), TOKENIZER, telemetry=told) as services:
        report = (
            await services.complete(prompt, policy=policy("fixed", max_tokens=4), max_tokens=31)
        ).finish.speculation
        await until(lambda: Reading.of(told.target.metrics)("tandem_streams_total"))
        await until(lambda: Reading.of(told.draft.metrics)("tandem_streams_total"))
        target, draft = Reading.of(told.target.metrics), Reading.of(told.draft.metrics)
        for found, service in ((target, "target"), (draft, "draft")):
            assert found.labels("service") == {service}
            assert found("tandem_sessions_total", outcome="closed") == 1 and found("tandem_sessions") == 0
            assert found("tandem_waiting_blocks") == found("tandem_preemptions_total") == 0
            assert found("tandem_cache_capacity_bytes") > found("tandem_cache_bytes") == 0
            assert found("tandem_build_info") == found("tandem_model_info", dtype="float32") == 1
        # The draft is the target: every candidate is accepted. 31 tokens: 1, then blocks of 4 and the one after.
        assert report.verify_steps == 6 and report.accepted_tokens == report.drafted_tokens == 24
        blocks = report.verify_steps + 1
        assert target("tandem_engine_step_seconds_count") == target("tandem_engine_queue_seconds_count") == blocks
        assert target("tandem_engine_step_sequences_sum") == blocks  # one each
        assert target("tandem_engine_step_tokens_sum") == len(prompt) + sum([5] * report.verify_steps)
        assert target("tandem_prefilled_tokens_total") == len(prompt) - 1
        # The draft takes the prompt in by a work of its own; after a block that was accepted whole it lacks the last.
        assert draft("tandem_engine_queue_seconds_count") == report.verify_steps + 1
        assert draft("tandem_prefilled_tokens_total") == len(prompt) - 1 + 1 + (report.verify_steps - 1)
        assert target("tandem_streams_total", method="Verify") == draft("tandem_streams_total", method="Draft") == 1
        assert target.labels("code") | draft.labels("code") <= {"OK", "CANCELLED"}
        assert target("tandem_rpc_seconds_count", method="GetTargetModel", code="OK") == 1
        assert draft("tandem_rpc_seconds_count", method="GetDraftModel", code="OK") == 1
        assert target("tandem_prefix_tokens_total") == 0
        await services.complete(prompt, policy=OFF, max_tokens=2)
        assert Reading.of(told.target.metrics)("tandem_prefix_tokens_total") == 32  # two blocks of 16


async def test_what_is_refused_is_told_with_its_reason() -> None:
    told = Telemetries()
    limits = EngineLimits(max_sequences=1)
    target = tiny_llama(2, context=4096)
    async with trio(target, None, TOKENIZER, telemetry=told, target_limits=limits) as services:
        first = services.stub.Complete(make_request([1], max_tokens=4000))
        await first.read()
        assert (await services.refusal(make_request([1], max_tokens=3))).reason == "OVERLOADED"
        first.cancel()
        async with connect(services.target.address) as channel:
            stub = target_pb2_grpc.TargetServiceStub(channel)
            stream = stub.Verify()
            opening = target_pb2.VerifyOpen(handshake={"protocol_version": 1}, prompt_token_ids=[99])
            await stream.write(target_pb2.VerifyRequest(open=opening))
            with pytest.raises(grpc.aio.AioRpcError):
                await stream.read()
        await until(lambda: Reading.of(told.target.metrics)("tandem_streams_total") == 3)
    found = Reading.of(told.target.metrics)
    assert found("tandem_refused_sessions_total", reason="overloaded") == 1
    assert found("tandem_refused_sessions_total", reason="invalid_field") == 1
    assert found("tandem_refused_sessions_total") == 2
    assert found("tandem_sessions_total") == found("tandem_sessions_total", outcome="closed") == 1
    assert found("tandem_streams_total", code="RESOURCE_EXHAUSTED") == 1
    assert found("tandem_streams_total", code="INVALID_ARGUMENT") == 1


async def test_a_session_that_fails_is_no_closed_one() -> None:
    told = Telemetries()
    async with trio(tiny_llama(2), None, TOKENIZER, telemetry=told) as services:
        async with connect(services.target.address) as channel:
            stream = target_pb2_grpc.TargetServiceStub(channel).Verify()
            opening = target_pb2.VerifyOpen(
                handshake={"protocol_version": 1}, prompt_token_ids=[1], verification="VERIFICATION_RULE_GREEDY"
            )
            await stream.write(target_pb2.VerifyRequest(open=opening))
            await stream.read()
            await stream.write(target_pb2.VerifyRequest(generate=target_pb2.Generate(round=1)))
            with pytest.raises(grpc.aio.AioRpcError):
                await stream.read()
        await until(lambda: Reading.of(told.target.metrics)("tandem_streams_total"))
    found = Reading.of(told.target.metrics)
    assert found("tandem_sessions_total", outcome="invalid_field") == found("tandem_sessions_total") == 1
    assert found("tandem_refused_sessions_total") == 0


async def test_health_and_reflection_are_not_counted() -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    told = Telemetries()
    async with trio(tiny_llama(2), None, TOKENIZER, telemetry=told) as services:
        async with connect(services.target.address) as channel:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary("/tandem.v1.TargetService/Nonsense")(b"")
    found = Reading.of(told.target.metrics)
    assert found("tandem_rpc_seconds_count") > 0  # the orchestrator asks what is served, and whether it is
    assert not found.labels("method") & {"Check", "Nonsense"}


async def test_a_drafter_without_an_engine_tells_its_sessions() -> None:
    told = Telemetries()
    async with trio(tiny_llama(2, context=4096), PromptLookupDrafter(), TOKENIZER, telemetry=told) as services:
        call = services.stub.Complete(make_request([1, 1], speculation=policy("fixed"), max_tokens=4000))
        await call.read()
        await until(lambda: Reading.of(told.draft.metrics)("tandem_sessions") == 1)
        call.cancel()
        await until(lambda: Reading.of(told.draft.metrics)("tandem_sessions") == 0)
    found = Reading.of(told.draft.metrics)
    assert found("tandem_model_info", model_id="prompt-lookup") == found("tandem_sessions_total") == 1
    assert found("tandem_engine_step_seconds_count") == 0


def test_the_load_is_read_when_the_metrics_are() -> None:
    loads = [
        EngineLoad(3, 2, 1000, 5000, 7, prefix_tokens=11, prefilled_tokens=13),
        EngineLoad(1, 0, 10, 5000, 8, prefix_tokens=12, prefilled_tokens=14),
    ]
    told = ModelTelemetry("draft")
    told.serves(model_pb2.ModelInfo(model_id="m"), lambda: loads[0])
    names = ("sessions", "waiting_blocks", "cache_bytes", "cache_capacity_bytes", "preemptions_total")
    names += ("prefix_tokens_total", "prefilled_tokens_total")
    for expected in ([3, 2, 1000, 5000, 7, 11, 13], [1, 0, 10, 5000, 8, 12, 14]):
        found = Reading.of(told.metrics)
        assert [found(f"tandem_{name}", service="draft") for name in names] == expected
        loads.pop(0)


async def test_an_engine_tells_of_every_step_and_of_every_first_wait() -> None:
    reports: list[StepReport] = []

    class Observer:
        def stepped(self, step: StepReport) -> None:
            reports.append(step)

    runner = Runner()
    async with started(runner) as engine:
        await alone(engine, [1, 2, 3], 2)  # nobody listens yet
        engine.attach(Observer())
        runner.gate.clear()
        first = asyncio.create_task(alone(engine, [1, 2, 3, 4], 3))
        await asyncio.to_thread(runner.waiting.wait, 30)
        second = Greedy(await engine.open(), [7], 2)  # waits for the step under way
        running = asyncio.create_task(engine.run(second))
        await asyncio.sleep(0.05)
        runner.gate.set()
        await asyncio.gather(first, running)
        await until(lambda: sum(report.sequences for report in reports) == 5)
    assert [report.tokens for report in reports] == [4, 2, 2] and [len(report.waits) for report in reports] == [1, 1, 0]
    assert [report.sequences for report in reports] == [1, 2, 2]
    assert reports[1].waits[0] >= 0.05 and reports[0].seconds >= 0.05
    assert engine.load().prefilled_tokens == 2 + 3
