"""What a replica says of its health without being asked: that it stops, before a sequence is sent there for nothing."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from orchestrator.replicas.service import Service
from tandem.rpc.channels import ChannelPool


async def until_not_serving(service: Service, pool: ChannelPool) -> bool:
    """Returns once a replica that serves has said that it does not any more: True. False where nothing more will be
    heard: it says nothing of itself, or the connection is lost."""
    asked = health_pb2.HealthCheckRequest(service=service.full_name)
    with pool.lease() as channel:
        call = health_pb2_grpc.HealthStub(channel).Watch(asked)
        try:
            async for answer in call:
                if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                    return True
        except grpc.aio.AioRpcError:
            pass
        finally:
            call.cancel()
    return False
