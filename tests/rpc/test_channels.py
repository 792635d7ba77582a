from __future__ import annotations

from contextlib import ExitStack

import grpc
import pytest

from tandem.rpc.channels import ChannelPool, check_endpoint, connect
from tandem.v1 import target_pb2_grpc
from tandem.v1.target_pb2 import GetTargetModelRequest, GetTargetModelResponse


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:7001", "localhost:1", "draft.tandem.svc:65535", "[::1]:7001"]
)
def test_endpoints_are_taken_as_they_are(endpoint: str) -> None:
    assert check_endpoint(endpoint) == endpoint


@pytest.mark.parametrize(
    "endpoint",
    ["", "localhost", ":7001", "host:0", "host:65536", "host:port", "::1:7001", "http://host:1", "a b:1"],
)
def test_other_texts_are_refused_with_what_to_write(endpoint: str) -> None:
    with pytest.raises(ValueError, match="write HOST:PORT"):
        connect(endpoint)


async def test_each_channel_of_a_pool_is_a_connection_of_its_own(serve) -> None:
    async def handler(request, context):
        return GetTargetModelResponse(model={"model_id": context.peer()})

    served = await serve(GetTargetModel=handler)
    pool = ChannelPool(served.server.address, size=3)
    peers = []
    for _ in range(6):
        with pool.lease() as channel:
            answer = await target_pb2_grpc.TargetServiceStub(channel).GetTargetModel(GetTargetModelRequest())
        peers.append(answer.model.model_id)
    await pool.close()
    assert len(set(peers)) == 3 and peers[:3] == peers[3:]


async def test_the_channel_with_the_fewest_streams_is_next() -> None:
    pool = ChannelPool("127.0.0.1:1", size=2)
    with ExitStack() as kept:
        first, second = kept.enter_context(pool.lease()), kept.enter_context(pool.lease())
        assert first is not second and pool.streams == 2
        with pool.lease():
            pass
        third = kept.enter_context(pool.lease())
        with pool.lease() as fourth:
            assert {third, fourth} == {first, second}
    assert pool.streams == 0
    await pool.close()


async def test_a_connection_that_failed_comes_last() -> None:
    pool = ChannelPool("127.0.0.1:1", size=2)  # nobody listens there
    with pool.lease() as failed, pytest.raises(grpc.aio.AioRpcError):
        await target_pb2_grpc.TargetServiceStub(failed).GetTargetModel(GetTargetModelRequest())
    for _ in range(3):
        with pool.lease() as chosen:
            assert chosen is not failed
    await pool.close()


async def test_a_lease_ends_with_its_block_also_after_an_error() -> None:
    pool = ChannelPool("127.0.0.1:1", size=1)
    with pytest.raises(RuntimeError), pool.lease():
        raise RuntimeError
    assert pool.streams == 0
    await pool.close()


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ChannelPool("127.0.0.1:1", size=0)
