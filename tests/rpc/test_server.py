from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tandem.rpc.channels import MAX_MESSAGE_BYTES, connect
from tandem.rpc.server import ListenError, PortTakenError, Server
from tandem.v1 import target_pb2_grpc
from tandem.v1.target_pb2 import GetTargetModelRequest, GetTargetModelResponse, VerifyRequest, VerifyResponse

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def test_port_0_takes_a_free_one_and_says_which(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="tandem"):
        async with Server() as server:
            assert 0 < server.port <= 65535
            assert f"listening on 127.0.0.1:{server.port}" in caplog.text


async def test_a_taken_port_is_refused_in_one_line() -> None:
    async with Server() as first:
        with pytest.raises(PortTakenError) as caught:
            await Server(port=first.port).start()
    message = str(caught.value)
    assert (
        f"port {first.port} on 127.0.0.1 is taken" in message and "--port" in message and "\n" not in message
    )


async def test_a_port_taken_by_another_program_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises(PortTakenError):
            await Server(port=listener.getsockname()[1]).start()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.7", "not a host"])
async def test_a_host_that_is_not_ours_is_refused_in_one_line(host: str) -> None:
    with pytest.raises(ListenError) as caught:
        await Server(host=host).start()
    assert host in str(caught.value) and "--host" in str(caught.value) and "\n" not in str(caught.value)


async def test_health_and_reflection_are_served(serve) -> None:
    served = await serve()
    health = health_pb2_grpc.HealthStub(served.channel)
    for name in ("", "tandem.v1.TargetService", "tandem.v1.CompletionService"):
        assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health.Check(health_pb2.HealthCheckRequest(service="tandem.v1.DraftService"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    listing = reflection_pb2_grpc.ServerReflectionStub(served.channel).ServerReflectionInfo()
    await listing.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    names = {service.name for service in (await listing.read()).list_services_response.service}
    await listing.done_writing()
    assert {"tandem.v1.TargetService", "tandem.v1.CompletionService", "grpc.health.v1.Health"} <= names


async def test_a_drain_says_so_at_once_and_lets_open_streams_finish(serve) -> None:
    async def handler(requests, context):
        async for _ in requests:
            yield VerifyResponse()

    served = await serve(Verify=handler, grace_seconds=30)
    stream = served.target.Verify()
    await stream.write(VerifyRequest())
    await stream.read()
    watch = health_pb2_grpc.HealthStub(served.channel).Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == SERVING
    drain = asyncio.ensure_future(served.server.drain())
    assert (await asyncio.wait_for(watch.read(), 10)).status == NOT_SERVING
    watch.cancel()
    async with connect(served.server.address) as late:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await late.unary_unary("/tandem.v1.TargetService/GetTargetModel")(b"")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    await stream.write(VerifyRequest())
    assert await stream.read() == VerifyResponse()
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    await asyncio.wait_for(drain, 10)


async def test_grace_bounds_the_drain(serve) -> None:
    freed, forever = asyncio.Event(), asyncio.Event()

    async def handler(requests, context):
        try:
            yield VerifyResponse()
            await forever.wait()
        finally:
            freed.set()

    served = await serve(Verify=handler, grace_seconds=0.05)
    stream = served.target.Verify()
    await stream.read()
    await asyncio.wait_for(served.server.drain(), 10)
    await asyncio.wait_for(freed.wait(), 10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_service(number: signal.Signals) -> None:
    ports: asyncio.Queue[int] = asyncio.Queue()
    serving = asyncio.ensure_future(Server().serve_forever(on_started=ports.put_nowait))
    assert await ports.get() > 0
    os.kill(os.getpid(), number)
    await asyncio.wait_for(serving, 10)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


async def test_a_second_signal_does_not_wait_for_open_streams() -> None:
    class Endless(target_pb2_grpc.TargetServiceServicer):
        async def Verify(self, request_iterator, context):
            yield VerifyResponse()
            await asyncio.Event().wait()

    server = Server(grace_seconds=3600)
    server.add(target_pb2_grpc.add_TargetServiceServicer_to_server, Endless(), "tandem.v1.TargetService")
    started: asyncio.Queue[int] = asyncio.Queue()
    serving = asyncio.ensure_future(server.serve_forever(on_started=started.put_nowait))
    await started.get()
    async with connect(server.address) as channel:
        stream = target_pb2_grpc.TargetServiceStub(channel).Verify()
        await stream.read()
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        os.kill(os.getpid(), signal.SIGTERM)
        assert (await asyncio.wait_for(watch.read(), 10)).status == NOT_SERVING
        assert not serving.done()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(serving, 10)


async def test_messages_of_tens_of_megabytes_pass(serve) -> None:
    async def handler(request, context):
        return GetTargetModelResponse(model={"model_id": "m" * (MAX_MESSAGE_BYTES // 4)})

    served = await serve(GetTargetModel=handler)
    answer = await served.target.GetTargetModel(GetTargetModelRequest())
    assert len(answer.model.model_id) == MAX_MESSAGE_BYTES // 4
