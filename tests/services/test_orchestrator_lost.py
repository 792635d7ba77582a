"""An orchestrator that is gone holds nothing in draft and target; one that only seems to be there not for long."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from subprocess import Popen

import grpc
import pytest

from tandem.v1 import completion_pb2_grpc
from tests.support.fleet import CONTEXT, Fleet, Service, fleet
from tests.support.gate import until
from tests.support.tiny_orchestrator import tiny_orchestrator
from tests.support.trio import OFF, make_request, policy

BLOCKS = policy("fixed", "exact", max_tokens=3)


@pytest.fixture
async def made() -> AsyncIterator[Fleet]:
    async with fleet() as running:
        yield running


@dataclass(slots=True)
class Lost:
    """A process of an orchestrator with a completion of each kind under way."""

    process: Popen[str]
    services: tuple[Service, Service]

    def stop(self) -> None:
        """It stands still: its connections stay, and nobody reads them."""
        self.process.send_signal(signal.SIGSTOP)

    def holds(self) -> int:
        """Sequences."""
        return sum(service.engine.load().sequences for service in self.services)


@asynccontextmanager
async def under_way(made: Fleet, *, timeout: float | None = None) -> AsyncGenerator[Lost]:
    """timeout: of the caller."""
    services = await made.target(), await made.draft()
    starting = tiny_orchestrator(*(service.address for service in services))
    process, endpoint = await asyncio.to_thread(starting.__enter__)
    try:
        async with grpc.aio.insecure_channel(endpoint) as channel:
            stub = completion_pb2_grpc.CompletionServiceStub(channel)
            calls = [
                stub.Complete(
                    make_request([1, 2], speculation=chosen, max_tokens=CONTEXT // 2, ignore_end_tokens=True),
                    timeout=timeout,
                )
                for chosen in (OFF, BLOCKS)
            ]
            for call in calls:
                for _ in range(3):
                    await call.read()
            lost = Lost(process, services)
            assert lost.holds() == 3
            yield lost
            for call in calls:
                call.cancel()
    finally:
        starting.__exit__(None, None, None)


async def test_one_that_is_killed_frees_what_it_held_at_once(made: Fleet) -> None:
    async with under_way(made) as lost:
        lost.process.kill()
        await until(lambda: lost.holds() == 0, 10)  # far less than keep-alive takes


async def test_one_that_stands_still_holds_nothing_beyond_its_callers_time(made: Fleet) -> None:
    async with under_way(made, timeout=4.0) as lost:
        lost.stop()
        await until(lambda: lost.holds() == 0, 15)  # less than keep-alive takes


async def test_one_that_stands_still_is_noticed(made: Fleet) -> None:
    """By keep-alive: within half a minute, and a good deal more on a machine that has much to do."""
    async with under_way(made) as lost:
        lost.stop()
        await until(lambda: lost.holds() == 0, 60)
        assert lost.process.poll() is None
