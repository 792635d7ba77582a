"""A server that drains: who watches knows at once, calls end with a word, and the time is kept."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tandem.rpc.channels import connect
from tandem.rpc.draining import HandOver
from tandem.rpc.errors import TandemError
from tandem.rpc.server import Server
from tandem.v1 import draft_pb2, draft_pb2_grpc, model_pb2, target_pb2_grpc
from tandem.v1.sampling_pb2 import VERIFICATION_RULE_GREEDY
from tandem.v1.target_pb2 import GetTargetModelRequest, VerifyRequest, VerifyResponse
from tests.cli.processes import environment

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def ended_with(call: Any) -> TandemError:
    """What a stream ends with; fails where it ends well."""
    try:
        async with asyncio.timeout(20):
            while await call.read() is not grpc.aio.EOF:
                pass
        assert await call.code() is not grpc.StatusCode.OK
    except grpc.aio.AioRpcError as error:
        return TandemError.from_rpc_error(error)
    raise AssertionError("the stream ended well")


class Endless(target_pb2_grpc.TargetServiceServicer):
    """Answers a message by one, for ever. freed: streams that it has left."""

    def __init__(self) -> None:
        self.freed = 0

    async def Verify(self, request_iterator: Any, context: Any) -> AsyncIterator[VerifyResponse]:  # noqa: N802
        try:
            async for _ in request_iterator:
                yield VerifyResponse()
        finally:
            self.freed += 1

    async def GetTargetModel(self, request: Any, context: Any) -> None:  # noqa: N802
        await asyncio.Event().wait()


def server(servicer: Endless, **options: Any) -> Server:
    made = Server(**options)
    made.add(target_pb2_grpc.add_TargetServiceServicer_to_server, servicer, "tandem.v1.TargetService")
    return made


async def opened(channel: grpc.aio.Channel) -> Any:
    call = target_pb2_grpc.TargetServiceStub(channel).Verify()
    await call.write(VerifyRequest())
    await call.read()
    return call


@pytest.mark.parametrize("grace", [0.0, 0.3])
async def test_what_is_left_at_the_end_is_told_to_go_elsewhere(grace: float) -> None:
    servicer = Endless()
    async with server(servicer, grace_seconds=grace) as running, connect(running.address) as channel:
        calls = [await opened(channel) for _ in range(5)]
        asked = target_pb2_grpc.TargetServiceStub(channel).GetTargetModel(GetTargetModelRequest())
        await asyncio.sleep(0.05)  # it is there
        draining = asyncio.create_task(running.drain())
        for call in calls:
            error = await ended_with(call)
            assert (error.reason, error.code) == ("SHUTTING_DOWN", grpc.StatusCode.UNAVAILABLE)
            assert error.retry_after
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asked
        assert TandemError.from_rpc_error(caught.value).reason == "SHUTTING_DOWN"
        await asyncio.wait_for(draining, 10)
        assert servicer.freed == 5


async def test_calls_are_handed_over_one_after_another_the_oldest_first() -> None:
    servicer = Endless()
    plan = HandOver(0.0, 0.5)
    async with server(servicer, grace_seconds=4.0, hand_over=plan) as running, connect(running.address) as channel:
        calls = [await opened(channel) for _ in range(6)]
        order: list[int] = []

        async def note(index: int) -> None:
            assert (await ended_with(calls[index])).reason == "SHUTTING_DOWN"
            order.append(index)

        notes = [asyncio.create_task(note(index)) for index in range(6)]
        draining = asyncio.create_task(running.drain())
        while not order:
            await asyncio.sleep(0.01)
        assert order == [0]  # the others go on
        await calls[5].write(VerifyRequest())
        await asyncio.wait_for(asyncio.gather(*notes, draining), 20)
        assert order == sorted(order)


async def test_a_stream_goes_on_until_it_is_handed_over() -> None:
    plan = HandOver(1.0, 1.0)
    async with server(Endless(), grace_seconds=30.0, hand_over=plan) as running, connect(running.address) as channel:
        call = await opened(channel)
        draining = asyncio.create_task(running.drain())
        await asyncio.sleep(0.5)
        await call.write(VerifyRequest())
        assert await call.read() == VerifyResponse()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        await asyncio.wait_for(draining, 10)  # nobody is left: it does not wait for its time


async def test_who_watches_the_health_is_told_and_does_not_hold_up_the_drain() -> None:
    async with server(Endless(), grace_seconds=60.0) as running, connect(running.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        draining = asyncio.create_task(running.drain())
        assert (await asyncio.wait_for(watch.read(), 10)).status == NOT_SERVING
        await asyncio.wait_for(draining, 20)


async def test_a_caller_that_leaves_is_no_matter_of_the_drain() -> None:
    servicer = Endless()
    async with server(servicer, grace_seconds=30.0) as running, connect(running.address) as channel:
        call = await opened(channel)
        call.cancel()
        async with asyncio.timeout(10):
            while not servicer.freed:
                await asyncio.sleep(0.01)
        await asyncio.wait_for(running.drain(), 10)


async def test_who_does_not_read_is_cut_off_in_time() -> None:
    class Flood(target_pb2_grpc.TargetServiceServicer):
        async def Verify(self, request_iterator: Any, context: Any) -> AsyncIterator[VerifyResponse]:  # noqa: N802
            while True:
                yield VerifyResponse(opened={"model": model_pb2.ModelInfo(model_id="m" * 2**20)})

    async with server(Flood(), grace_seconds=0.5) as running, connect(running.address) as channel:  # type: ignore[arg-type]
        call = target_pb2_grpc.TargetServiceStub(channel).Verify()
        await call.write(VerifyRequest())
        await call.read()
        await asyncio.wait_for(running.drain(), 20)
        call.cancel()


async def test_a_server_serves_again_after_a_drain() -> None:
    servicer = Endless()
    running = server(servicer, grace_seconds=0.1)
    for _ in range(2):
        await running.start()
        async with connect(running.address) as channel:
            call = await opened(channel)
            draining = asyncio.create_task(running.drain())
            assert (await ended_with(call)).reason == "SHUTTING_DOWN"
            await draining


@pytest.mark.parametrize("signals", [1, 2])
async def test_a_process_that_is_told_to_stop_hands_over_and_ends_with_0(signals: int) -> None:
    grace = "4" if signals == 1 else "600"
    command = [sys.executable, "-m", "draft_service", "--model", "prompt-lookup", "--port", "0"]
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [*command, "--grace-seconds", grace, "--ready-fd", str(writer)], pass_fds=[writer], env=environment()
    )
    try:
        os.close(writer)
        with os.fdopen(reader) as told:
            port = int(await asyncio.wait_for(asyncio.to_thread(told.readline), 60))
        async with connect(f"127.0.0.1:{port}") as channel:
            call = draft_pb2_grpc.DraftServiceStub(channel).Draft()
            opening = draft_pb2.DraftOpen(
                handshake={"protocol_version": 1}, prompt_token_ids=[1, 2, 3], verification=VERIFICATION_RULE_GREEDY
            )
            await call.write(draft_pb2.DraftRequest(open=opening))
            assert (await call.read()).HasField("opened")
            for _ in range(signals):
                process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.3)
            error = await ended_with(call)
            assert error.code is grpc.StatusCode.UNAVAILABLE or signals == 2
            if signals == 1:
                assert error.reason == "SHUTTING_DOWN"
        assert await asyncio.to_thread(process.wait, 60) == 0
    finally:
        process.kill()
        process.wait()
