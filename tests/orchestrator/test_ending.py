"""A service that ends a stream is heard, whatever was being sent to it at that moment."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from orchestrator.upstream import TargetStream
from tandem.rpc.channels import ChannelPool
from tandem.rpc.errors import TandemError
from tandem.rpc.server import Server
from tandem.v1 import target_pb2, target_pb2_grpc

_STREAMS = 400


class Full(target_pb2_grpc.TargetServiceServicer):
    """Ends every stream as soon as it is there. refuses: with an error, or as if all were well."""

    def __init__(self, *, refuses: bool) -> None:
        self._refuses = refuses

    async def Verify(  # noqa: N802
        self, requests: AsyncIterator[target_pb2.VerifyRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[Any]:
        if self._refuses:
            raise TandemError.overloaded("full", retry_after=0.5)
        return
        yield


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
    server = Server(port=0)
    server.add(target_pb2_grpc.add_TargetServiceServicer_to_server, Full(refuses=refuses), "tandem.v1.TargetService")
    async with server:
        pool = ChannelPool(f"127.0.0.1:{server.port}")
        reasons: Counter[str] = Counter()
        for _ in range(_STREAMS // 8):
            reasons.update(await asyncio.gather(*(reason(pool) for _ in range(8))))
        await pool.close()
    assert reasons == {expected: _STREAMS}
