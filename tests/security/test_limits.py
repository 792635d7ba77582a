"""What is too large or too much is refused by name, and says when to come back where that helps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from orchestrator.settings import OrchestratorSettings
from tandem.rpc.channels import connect
from tandem.rpc.errors import TandemError
from tandem.settings import load_settings
from tandem.v1 import completion_pb2, target_pb2_grpc
from tandem.v1.target_pb2 import GetTargetModelRequest, VerifyRequest
from tests.security.conftest import echo_server
from tests.security.serving import orchestrator, plain_request, target
from tests.support.trio import Trio

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def services() -> AsyncIterator[Trio]:
    async with target() as running:
        yield running


async def test_a_server_takes_so_many_calls_and_tells_the_next_when_to_come_back() -> None:
    async with echo_server(max_streams=3) as server, connect(server.address) as channel:
        stub = target_pb2_grpc.TargetServiceStub(channel)
        streams = [stub.Verify() for _ in range(3)]
        for stream in streams:
            await stream.write(VerifyRequest(round={"round": 1}))
            await stream.read()
        refused = stub.Verify()
        for call in (refused.read(), stub.GetTargetModel(GetTargetModelRequest(), timeout=30)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            error = TandemError.from_rpc_error(caught.value)
            assert (error.reason, error.code) == ("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED)
            assert error.metadata == {"limit": "max_streams", "allowed": "3"} and error.retry_after is not None
            assert "--max-streams" in error.message
        health = health_pb2_grpc.HealthStub(channel)
        asked = await health.Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert asked.status == health_pb2.HealthCheckResponse.SERVING
        # A place is free again however a stream ends.
        streams[0].cancel()
        await streams[1].done_writing()
        assert await streams[1].read() is grpc.aio.EOF
        for _ in range(200):
            try:
                await stub.GetTargetModel(GetTargetModelRequest(), timeout=30)
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)
        again = [stub.Verify() for _ in range(2)]
        for stream in again:
            await stream.write(VerifyRequest(round={"round": 2}))
            assert (await stream.read()).verified.round == 2
        for stream in (*again, streams[2]):
            stream.cancel()


async def test_many_at_once_get_exactly_as_many_places_as_there_are() -> None:
    async with echo_server(max_streams=5) as server, connect(server.address) as channel:
        stub = target_pb2_grpc.TargetServiceStub(channel)

        async def come() -> grpc.aio.StreamStreamCall | None:
            stream = stub.Verify()
            try:
                await stream.write(VerifyRequest(round={"round": 1}))
                await stream.read()
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return None
            return stream

        found = [stream for stream in await asyncio.gather(*(come() for _ in range(40))) if stream]
        assert len(found) == 5
        for stream in found:
            stream.cancel()


async def test_a_message_that_is_too_large_is_told_with_both_sizes() -> None:
    async with echo_server(max_message_bytes=100_000) as server, connect(server.address) as channel:
        stub = target_pb2_grpc.TargetServiceStub(channel)
        stream = stub.Verify()
        await stream.write(VerifyRequest(open={"prompt_token_ids": [1000] * 60_000}))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in caught.value.details() and "100000" in caught.value.details()


async def test_a_message_that_is_too_large_for_the_orchestrator_is_told_with_both_sizes(services: Trio) -> None:
    async with orchestrator(services, max_message_bytes=2048) as faces:
        assert (await faces.complete(None, prompt=100, max_tokens=1)).token_ids
        with pytest.raises(TandemError) as caught:
            await faces.complete(None, prompt=10_000)
        assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED and caught.value.retry_after is None
        assert "larger than max" in caught.value.message and "2048" in caught.value.message


async def test_a_prompt_that_is_too_long_for_the_server_names_both_numbers(services: Trio) -> None:
    async with orchestrator(services, max_prompt_tokens=50) as faces:
        assert (await faces.complete(None, prompt=50, max_tokens=1)).token_ids
        with pytest.raises(TandemError) as caught:
            await faces.complete(None, prompt=51)
        error = caught.value
        assert (error.reason, error.field) == ("PROMPT_TOO_LONG", "completion.tokens")
        assert error.metadata == {"prompt_tokens": "51", "max_prompt_tokens": "50"}
        assert "--max-prompt-tokens" in error.message
        answer = await faces.post(None, prompt="x" * 51)
        told = answer.json()["error"]
        assert (answer.status_code, told["code"], told["param"]) == (400, "context_length_exceeded", "prompt")
        assert "50" in told["message"]


async def test_the_models_context_counts_beside_it(services: Trio) -> None:
    async with orchestrator(services, max_prompt_tokens=10**6) as faces:
        with pytest.raises(TandemError) as caught:
            await faces.complete(None, prompt=40_000)
        assert "context_length" in caught.value.metadata


async def test_a_body_that_is_too_large_is_told_with_what_is_taken(services: Trio) -> None:
    async with orchestrator(services, max_body_bytes=2048) as faces:
        assert (await faces.post(None, max_tokens=1)).status_code == 200
        answer = await faces.post(None, prompt="x" * 2048)
        told = answer.json()["error"]
        assert (answer.status_code, told["code"]) == (413, "body_too_large")
        assert "2048" in told["message"] and "--max-body-bytes" in told["message"]


async def test_both_faces_of_the_orchestrator_refuse_what_is_too_much(services: Trio) -> None:
    async with orchestrator(services, max_streams=2) as faces:
        calls = [faces.stub.Complete(plain_request(max_tokens=30_000)) for _ in range(2)]
        for call in calls:
            await call.read()
        with pytest.raises(TandemError) as caught:
            await faces.complete(None)
        assert caught.value.reason == "OVERLOADED" and caught.value.retry_after is not None
        assert (await faces.post(None, max_tokens=1)).status_code == 200  # each port counts for itself
        for call in calls:
            call.cancel()
        body = {"model": "tiny", "prompt": [3], "stream": True, "max_tokens": 30_000, "ignore_eos": True}
        async with (
            faces.http.stream("POST", "/v1/completions", json=body) as one,
            faces.http.stream("POST", "/v1/completions", json=body) as two,
        ):
            assert (one.status_code, two.status_code) == (200, 200)
            answer = await faces.http.get("/v1/models")
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
            told = answer.json()["error"]
            assert (told["code"], told["type"]) == ("overloaded", "rate_limit_error")
            for path in ("/healthz", "/"):
                assert (await faces.http.get(path)).status_code == 200


async def test_limits_are_settings_with_their_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    settings = load_settings(OrchestratorSettings, ["--max-message-bytes", "8MiB", "--max-body-bytes", "1MiB"])
    assert (settings.max_message_bytes, settings.max_body_bytes) == (8 * 2**20, 2**20)
    for flag in ("--max-message-bytes", "--max-streams", "--max-prompt-tokens", "--max-body-bytes"):
        with pytest.raises(SystemExit) as ended:
            load_settings(OrchestratorSettings, [flag, "0"])
        assert ended.value.code == 2 and flag in capsys.readouterr().err


async def test_those_who_watch_the_health_take_no_place_from_callers(services: Trio) -> None:
    async with orchestrator(services, max_streams=2) as faces, connect(faces.server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
        for watch in watches:
            await watch.read()
        one_more = health.Watch(health_pb2.HealthCheckRequest())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await one_more.read()
        assert TandemError.from_rpc_error(caught.value).reason == "OVERLOADED"
        assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=30)).status
        once = completion_pb2.CompleteOnceRequest(completion=plain_request(max_tokens=1))
        assert (await faces.stub.CompleteOnce(once, timeout=30)).token_ids
        for watch in watches:
            watch.cancel()
