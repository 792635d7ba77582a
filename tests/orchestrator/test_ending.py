"""A service that ends a stream is heard, whatever was being sent to it at that moment."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from orchestrator.streams import TargetStream
from tandem.rpc.channels import ChannelPool
from tandem.rpc.errors import TandemError
from tandem.rpc.server import Server
from tandem.telemetry import Telemetry
from tandem.v1 import target_pb2, target_pb2_grpc

_STREAMS = 400


class Full(target_pb2_grpc.TargetServiceServicer):
    """Ends every stream as soon as it is there. refuses: with an error, or as if all were well. answers: that come
    before that."""

    def __init__(self, *, refuses: bool, answers: int = 0) -> None:
        self._refuses = refuses
        self._answers = answers

    async def Verify(  # noqa: N802
        self, requests: AsyncIterator[target_pb2.VerifyRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[Any]:
        for _ in range(self._answers):
            yield target_pb2.VerifyResponse(opened={})
        if self._refuses:
            raise TandemError.overloaded("full", retry_after=0.5)


@asynccontextmanager
async def serving(service: Full) -> AsyncIterator[ChannelPool]:
    server = Server(port=0)
    server.add(target_pb2_grpc.add_TargetServiceServicer_to_server, service, "tandem.v1.TargetService")
    async with server:
        # As an orchestrator does: a call is another object where there are interceptors.
        pool = ChannelPool(f"127.0.0.1:{server.port}", interceptors=Telemetry().calls("target"))
        yield pool
        await pool.close()


async def reason(pool: ChannelPool) -> str:
    stream = TargetStream(pool)
    try:
        await stream.open(target_pb2.VerifyOpen())
        async for _ in stream.generate(target_pb2.Generate()):
            pass
    except TandemError as error:
        return error.reason
    finally:
        stream.close()
    return "none"


@pytest.mark.parametrize(("refuses", "expected"), [(True, "OVERLOADED"), (False, "TARGET_UNAVAILABLE")])
async def test_an_end_that_crosses_a_message_reaches_the_caller(refuses: bool, expected: str) -> None:
    reasons: Counter[str] = Counter()
    async with serving(Full(refuses=refuses)) as pool:
        for _ in range(_STREAMS // 8):
            reasons.update(await asyncio.gather(*(reason(pool) for _ in range(8))))
    assert reasons == {expected: _STREAMS}


async def write_much(pool: ChannelPool) -> bool:
    """Whether a message met the end of a stream whose answers nobody reads."""
    stream = TargetStream(pool)
    try:
        await stream.open(target_pb2.VerifyOpen())
        assert stream._call is not None
        for pause in (0.0, 0.001, 0.0, 0.002):
            await asyncio.sleep(pause)
            await stream._call.write(target_pb2.VerifyRequest())
    except (TandemError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return True
    finally:
        stream.close()
    return False


async def test_no_call_is_left_of_one_that_ends_unread() -> None:
    async with serving(Full(refuses=True, answers=2)) as pool:
        ended = 0
        for _ in range(40):
            ended += sum(await asyncio.gather(*(write_much(pool) for _ in range(8))))
        assert ended > 0
        async with asyncio.timeout(20):
            while any("_AioCall" in repr(task) for task in asyncio.all_tasks()):
                await asyncio.sleep(0.01)
