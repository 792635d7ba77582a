"""Peers that begin a call and then neither speak nor read are waited for only so long, and hold nothing afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from tandem.rpc.channels import connect
from tandem.rpc.errors import TandemError
from tandem.rpc.server import Server
from tandem.v1 import completion_pb2, completion_pb2_grpc, target_pb2, target_pb2_grpc


class _Endless(completion_pb2_grpc.CompletionServiceServicer):
    """Says more than fits in between, until it is stopped."""

    def __init__(self) -> None:
        self.said = 0
        self.over = asyncio.Event()

    async def Complete(self, request: Any, context: Any) -> AsyncIterator[completion_pb2.CompleteResponse]:
        try:
            while True:
                self.said += 1
                yield completion_pb2.CompleteResponse(text="x" * 100_000)
        finally:
            self.over.set()

    async def GetLoad(self, request: Any, context: Any) -> completion_pb2.GetLoadResponse:
        return completion_pb2.GetLoadResponse(completions=1)


class _Echo(target_pb2_grpc.TargetServiceServicer):
    async def Verify(self, requests: Any, context: Any) -> AsyncIterator[target_pb2.VerifyResponse]:
        async for _ in requests:
            yield target_pb2.VerifyResponse()


async def test_who_never_reads_is_not_kept_and_others_are_served() -> None:
    servicer = _Endless()
    server = Server(reading_seconds=0.3, max_streams=1)
    server.add(completion_pb2_grpc.add_CompletionServiceServicer_to_server, servicer, "tandem.v1.CompletionService")
    async with server, connect(server.address) as idle, connect(server.address) as channel:
        call = completion_pb2_grpc.CompletionServiceStub(idle).Complete(completion_pb2.CompleteRequest())
        async with asyncio.timeout(20):
            await servicer.over.wait()
        assert 0 < servicer.said < 400  # 40 MB; it stops as soon as what lies in between is full
        stub = completion_pb2_grpc.CompletionServiceStub(channel)
        async with asyncio.timeout(20):
            while True:  # its place is free
                try:
                    assert (await stub.GetLoad(completion_pb2.GetLoadRequest())).completions == 1
                    break
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                    await asyncio.sleep(0.02)
        # What it was sent before can still be read, and how it ended.
        try:
            while await call.read() is not grpc.aio.EOF:
                pass
            raise AssertionError("it ended well")
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_who_reads_slowly_is_served_to_the_end() -> None:
    class Long(_Endless):
        async def Complete(self, request: Any, context: Any) -> AsyncIterator[completion_pb2.CompleteResponse]:
            for _ in range(100):
                yield completion_pb2.CompleteResponse(text="x" * 100_000)

    server = Server(reading_seconds=5.0)
    server.add(completion_pb2_grpc.add_CompletionServiceServicer_to_server, Long(), "tandem.v1.CompletionService")
    async with server, connect(server.address) as channel:
        count = 0
        call = completion_pb2_grpc.CompletionServiceStub(channel).Complete(completion_pb2.CompleteRequest())
        async for _ in call:
            count += 1
            await asyncio.sleep(0.005)
        assert count == 100


async def test_a_stream_on_which_nothing_is_said_ends() -> None:
    server = Server(opening_seconds=0.2, max_streams=2)
    server.add(target_pb2_grpc.add_TargetServiceServicer_to_server, _Echo(), "tandem.v1.TargetService")
    async with server, connect(server.address) as channel:
        stub = target_pb2_grpc.TargetServiceStub(channel)
        calls = [stub.Verify() for _ in range(2)]
        for call in calls:
            try:
                async with asyncio.timeout(20):
                    await call.read()
                raise AssertionError("something was said")
            except grpc.aio.AioRpcError as error:
                assert TandemError.from_rpc_error(error).reason == "UNEXPECTED_MESSAGE"
        # One that has spoken may be silent for as long as it likes.
        call = stub.Verify()
        await call.write(target_pb2.VerifyRequest())
        assert await call.read() == target_pb2.VerifyResponse()
        await asyncio.sleep(0.5)
        await call.write(target_pb2.VerifyRequest())
        assert await call.read() == target_pb2.VerifyResponse()
        call.cancel()
