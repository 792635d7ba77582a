"""Every service is restarted, one after another, while callers go on: nobody notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tandem.rpc.draining import HandOver
from tests.support.fleet import Fleet, Orchestrator, Service, fleet
from tests.support.trio import make_request, policy

BLOCKS = policy("fixed", "exact", max_tokens=3)


@pytest.fixture
async def made() -> AsyncIterator[Fleet]:
    async with fleet() as running:
        yield running


async def restart(service: Service) -> None:
    await service.drain()
    await service.come_back()


class Callers:
    """In a loop, each with its own text, which has to be the same again and again."""

    def __init__(self, orchestrator: Orchestrator, count: int, max_tokens: int) -> None:
        self._orchestrator = orchestrator
        self._max_tokens = max_tokens
        self._prompts = [[1 + number, 2] for number in range(count)]
        self._ends = asyncio.Event()
        self.done = 0

    async def run(self) -> None:
        complete, tokens = self._orchestrator.complete, self._max_tokens
        expected = [list((await complete(prompt, max_tokens=tokens)).token_ids) for prompt in self._prompts]
        await asyncio.gather(*map(self._caller, self._prompts, expected))

    async def _caller(self, prompt: list[int], expected: list[int]) -> None:
        while not self._ends.is_set():
            request = make_request(prompt, max_tokens=self._max_tokens, speculation=BLOCKS)
            tokens = []
            async for response in self._orchestrator.stub.Complete(request, timeout=60):
                tokens += response.token_ids
            assert tokens == expected
            self.done += 1

    def end(self) -> None:
        self._ends.set()

    async def get_on(self, task: asyncio.Task[None], count: int) -> None:
        """Until so many more are done."""
        until = self.done + count
        async with asyncio.timeout(30):
            while self.done < until:
                if task.done():
                    task.result()
                await asyncio.sleep(0.01)


async def roll(made: Fleet, *, max_tokens: int, grace: float, plan: HandOver, times: int) -> int:
    """Restarts two targets and two drafts in turn; how many completions there were, all of them right."""
    services = [await made.target(), await made.target(), await made.draft(), await made.draft()]
    for service in services:
        service.server.grace_seconds = grace
        service.server._hand_over = plan
    orchestrator = await made.orchestrator(services[:2], services[2:])
    await orchestrator.until(*services)
    callers = Callers(orchestrator, 4, max_tokens)
    running = asyncio.create_task(callers.run())
    try:
        for _ in range(times):
            for service in services:
                await callers.get_on(running, 4)
                await asyncio.wait_for(restart(service), 30)
                await orchestrator.until(service)
    finally:
        callers.end()
        await running
    return callers.done


async def test_short_completions_end_within_the_grace_period(made: Fleet) -> None:
    assert await roll(made, max_tokens=20, grace=20.0, plan=HandOver(), times=2) >= 32


async def test_long_completions_are_handed_over(made: Fleet) -> None:
    assert await roll(made, max_tokens=150, grace=0.3, plan=HandOver(0.0, 1.0), times=1) >= 8


async def test_new_requests_go_elsewhere_as_soon_as_a_target_drains(made: Fleet) -> None:
    """The orchestrator is told; it does not find out by a request that fails there."""
    targets = [await made.target() for _ in range(2)]
    orchestrator = await made.orchestrator(targets)
    await orchestrator.until(*targets)
    for service in targets * 2:
        service.server.grace_seconds = 20.0
        held = await orchestrator.begin(max_tokens=2000)
        await service.server._health.enter_graceful_shutdown()  # the first thing that a drain does
        await orchestrator.until(service, state="failed")
        before = service.streams
        await asyncio.gather(*(orchestrator.complete() for _ in range(8)))
        assert service.streams == before
        held.cancel()
        await service.kill()
        await service.come_back()
        await orchestrator.until(service)
