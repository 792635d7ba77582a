"""A real server in this process, with handlers given by the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from tandem.rpc.channels import connect
from tandem.rpc.server import Server
from tandem.v1 import completion_pb2_grpc, target_pb2_grpc

Serve = Callable[..., Any]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """`await serve(Verify=..., GetTargetModel=..., Complete=...)`: handlers by name; gives stubs."""
    async with AsyncExitStack() as stack:

        async def start(grace_seconds: float = 5.0, **handlers: Callable[..., Any]) -> SimpleNamespace:
            server = Server(grace_seconds=grace_seconds)
            target, completion = (
                target_pb2_grpc.TargetServiceServicer(),
                completion_pb2_grpc.CompletionServiceServicer(),
            )
            for name, handler in handlers.items():
                setattr(target if hasattr(target, name) else completion, name, handler)
            server.add(target_pb2_grpc.add_TargetServiceServicer_to_server, target, "tandem.v1.TargetService")
            server.add(
                completion_pb2_grpc.add_CompletionServiceServicer_to_server,
                completion,
                "tandem.v1.CompletionService",
            )
            await stack.enter_async_context(server)
            channel: grpc.aio.Channel = await stack.enter_async_context(connect(server.address))
            return SimpleNamespace(
                server=server,
                channel=channel,
                target=target_pb2_grpc.TargetServiceStub(channel),
                completion=completion_pb2_grpc.CompletionServiceStub(channel),
            )

        yield start
