"""Who goes first where an engine cannot run all: the larger priority, and among equals who came first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence as Seq

from torch import Tensor

from tandem.inference.engine import Engine, EngineLimits
from tandem.inference.runner import ModelRunner
from tandem.inference.sequence import Sequence
from tandem.inference.work import SingleWork
from tests.support.tiny import tiny_llama


class Prompt(SingleWork):
    """Runs a prompt and notes when it was done."""

    def __init__(self, sequence: Sequence, length: int, done: list[Sequence]) -> None:
        self.sequence = sequence
        self._tokens: list[int] | None = [sequence.number % 60 + 1] * length
        self._done = done

    def next_block(self) -> tuple[Seq[int], int] | None:
        tokens, self._tokens = self._tokens, None
        return None if tokens is None else (tokens, 1)

    def receive(self, logits: Tensor) -> None:
        self._done.append(self.sequence)


def engine(cache_blocks: int = 400, step_tokens: int = 16) -> Engine:
    loaded = tiny_llama(1, context=512)
    probe = ModelRunner(loaded, cache_bytes=1 << 20)
    runner = ModelRunner(loaded, cache_bytes=cache_blocks * probe.cache.block_bytes)
    return Engine(runner, EngineLimits(step_tokens=step_tokens))


async def test_prompts_of_larger_priority_are_run_first() -> None:
    running, done = engine(), []
    sequences = [await running.open(priority) for priority in (0, 5, -3, 5, 0)]
    works = [asyncio.ensure_future(running.run(Prompt(sequence, 200, done))) for sequence in sequences]
    await asyncio.sleep(0)  # all are in the queue before the first step
    running.start()
    await asyncio.gather(*works)
    order = [sequences.index(sequence) for sequence in done]
    assert set(order[:2]) == {1, 3} and set(order[2:4]) == {0, 4} and order[4] == 2
    await running.close()


async def test_without_priorities_nothing_is_other_than_by_age() -> None:
    running, done = engine(), []
    sequences = [await running.open() for _ in range(3)]
    works = [asyncio.ensure_future(running.run(Prompt(sequence, 200, done))) for sequence in sequences]
    await asyncio.sleep(0)
    running.start()
    await asyncio.gather(*works)
    assert done[0] is sequences[0]
    await running.close()


async def test_the_smaller_priority_gives_way_even_if_it_is_older() -> None:
    running, done = engine(cache_blocks=24), []
    old, young = await running.open(-1), await running.open(1)
    running.start()
    await running.run(Prompt(old, 300, done))
    assert old.cached >= 300
    await running.run(Prompt(young, 200, done))
    assert young.cached >= 200 and old.cached == 0
    assert running.load().preemptions == 1
    await running.close()


async def test_the_larger_priority_stays_even_if_it_is_younger() -> None:
    running, done = engine(cache_blocks=24), []
    old, young = await running.open(-1), await running.open(1)
    running.start()
    await running.run(Prompt(young, 200, done))
    waiting = asyncio.ensure_future(running.run(Prompt(old, 300, done)))
    await asyncio.sleep(0.2)
    assert young.cached >= 200 and not waiting.done()
    await running.release(young)
    await waiting
    await running.close()
