"""Authorities, and a small gRPC server whose stream answers what it is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tandem.rpc.server import Server
from tandem.v1 import target_pb2_grpc
from tandem.v1.target_pb2 import GetTargetModelResponse, VerifiedBlock, VerifyResponse
from tests.security.certificates import Authority


class Echo(target_pb2_grpc.TargetServiceServicer):
    """`Verify` answers each round with its number; `GetTargetModel` names the caller's address."""

    async def Verify(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[VerifyResponse]:
        async for request in request_iterator:
            yield VerifyResponse(verified=VerifiedBlock(round=request.round.round))

    async def GetTargetModel(self, request: Any, context: Any) -> GetTargetModelResponse:
        return GetTargetModelResponse(model={"model_id": context.peer()})


def echo_server(**options: Any) -> Server:
    server = Server(**options)
    server.add(target_pb2_grpc.add_TargetServiceServicer_to_server, Echo(), "tandem.v1.TargetService")
    return server


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """Nobody trusts it."""
    return Authority(tmp_path, "stranger")
