"""Works for an engine, and a model that can be made to wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from collections.abc import Sequence as Seq
from contextlib import asynccontextmanager
from typing import Any

from torch import Tensor

from tandem.inference.cache import KeyValueCache
from tandem.inference.engine import Engine, EngineLimits
from tandem.inference.runner import Chunk, ModelRunner, Sequence
from tandem.inference.work import SingleWork
from tests.support.tiny import tiny_llama

PROMPTS = [[1, 2, 3], [9], [5, 4, 3, 2, 1, 0, 7], [20, 21]]


class Greedy(SingleWork):
    """A prompt and `count` tokens after it; receive returns each token."""

    def __init__(self, sequence: Sequence, prompt: Seq[int], count: int) -> None:
        self.sequence = sequence
        self.tokens: list[int] = []
        self._feed: Seq[int] | None = prompt
        self._count = count

    def next_block(self) -> tuple[Seq[int], int] | None:
        return None if self._feed is None else (self._feed, 1)

    def receive(self, logits: Tensor) -> Any:
        token = int(logits[0].argmax())
        self.tokens.append(token)
        self._feed = [token] if len(self.tokens) < self._count else None
        return token


class GatedRunner(ModelRunner):
    """Stands still in a forward pass while its gate is closed; `waiting` is set while it does."""

    def __init__(self, blocks: int | None = None) -> None:
        """blocks: of the cache."""
        super().__init__(tiny_llama())
        if blocks is not None:
            self.cache = KeyValueCache(self.cache.shape, blocks, self.cache.device)
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()
        self.batches: list[int] = []
        self.chunks: list[list[tuple[int, int]]] = []  # of each step, numbers of sequences and how many tokens
        self.before_run: Callable[[Seq[Chunk]], None] = lambda chunks: None

    def run(self, chunks: Seq[Chunk]) -> list[Tensor]:
        self.batches.append(len(chunks))
        self.chunks.append([(chunk.sequence.number, chunk.count) for chunk in chunks])
        if not self.gate.is_set():
            self.waiting.set()
            assert self.gate.wait(30), "the test never opened the gate"
            self.waiting.clear()
        self.before_run(chunks)
        return super().run(chunks)


@asynccontextmanager
async def started(runner: GatedRunner, **limits: int) -> AsyncIterator[Engine]:
    """A running engine. limits: of EngineLimits."""
    engine = Engine(runner, EngineLimits(**limits))
    engine.start()
    try:
        async with asyncio.timeout(60):  # only against hanging
            yield engine
    finally:
        runner.gate.set()
        await engine.close()


async def alone(engine: Engine, prompt: list[int], count: int) -> list[int]:
    work = Greedy(await engine.open(), prompt, count)
    await engine.run(work)
    await engine.release(work.sequence)
    return work.tokens


async def stuck_in_a_step(engine: Engine, runner: GatedRunner) -> asyncio.Task[list[int]]:
    """A work whose first step goes on until the gate opens."""
    runner.gate.clear()
    task = asyncio.create_task(alone(engine, [1], 2))
    await asyncio.to_thread(runner.waiting.wait, 30)
    return task


async def settled(engine: Engine) -> None:
    """Whatever was submitted or released before has been dealt with."""
    await alone(engine, [1], 1)


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what the engine's thread is about to do."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)
