"""Callers: what they have in common, and the one by gRPC."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import grpc

from tandem.rpc.channels import connect
from tandem.rpc.errors import TandemError
from tandem.v1 import completion_pb2, completion_pb2_grpc
from tests.chaos.lag import Lag
from tests.chaos.outcomes import TRANSPORT, Failure, Outcome, clock

#: After its deadline a request that is still there hangs.
OVERDUE_SECONDS = 1.0


class Caller(Protocol):
    """name: for tables. orchestrator: whom it calls; empty where it goes from one to another."""

    name: str
    orchestrator: str

    async def fill(self, outcome: Outcome) -> None:
        """Makes the request; returns at its end, whatever that is."""
        ...

    async def close(self) -> None: ...


async def call(caller: Caller, outcome: Outcome, lag: Lag) -> None:
    """Makes the request, and notes its end; what is not over a second after its deadline is overdue."""
    outcome.began = clock()
    filling = asyncio.ensure_future(caller.fill(outcome))
    try:
        await asyncio.wait({filling}, timeout=outcome.seconds + OVERDUE_SECONDS)
        if not filling.done():
            await asyncio.sleep(lag.since(outcome.began))
        outcome.overdue = not filling.done()
        if filling.done():
            filling.result()
    finally:
        filling.cancel()
        await asyncio.wait({filling})
    outcome.ended = clock()


class GrpcCaller:
    """Over a connection of its own."""

    name = "grpc"

    def __init__(self, orchestrator: str, endpoint: str) -> None:
        self.orchestrator = orchestrator
        self._channel = connect(endpoint)
        self._stub = completion_pb2_grpc.CompletionServiceStub(self._channel)

    async def fill(self, outcome: Outcome) -> None:
        await self.stream(outcome, outcome.work.named(outcome.name))

    async def stream(self, outcome: Outcome, request: completion_pb2.CompleteRequest) -> None:
        responses = self._stub.Complete(request, timeout=outcome.seconds)
        try:
            async for response in responses:
                note(outcome, response)
                if outcome.wants_to_leave:
                    outcome.has_left = True
                    return
        except grpc.aio.AioRpcError as error:
            outcome.failure = Failure.of(TandemError.from_rpc_error(error))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # What gRPC makes of a call that the other side has cancelled.
            outcome.failure = Failure("CANCELLED", TRANSPORT, "the call was cancelled by the service")
        finally:
            responses.cancel()

    async def close(self) -> None:
        await self._channel.close()


def note(outcome: Outcome, response: Any) -> None:
    """A CompleteResponse, or what the client makes of one."""
    choice = outcome.received(response.choice, list(response.token_ids), response.text)
    choice.scored += len(response.log_probabilities)
    if isinstance(response, completion_pb2.CompleteResponse):
        finish = response.finish if response.HasField("finish") else None
    else:
        finish = response.finish
    if finish is not None:
        choice.counted = finish.usage.completion_tokens
