"""What goes wrong with one work is that work's alone; the others get the tokens that they get without it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tandem.inference.engine import Engine, EngineClosedError
from tandem.inference.runner import ContextFullError
from tandem.sampling import History, NotFiniteError, SamplingChain, SamplingParams
from tests.inference.works import PROMPTS, GatedRunner, Greedy, alone, stuck_in_a_step, until


class Failing(Greedy):
    """Greedy, until `fail` is called: in next_block or in receive, at its third token."""

    def __init__(self, *args, fail: Callable[[], object], where: str) -> None:
        super().__init__(*args)
        self._fail, self._where = fail, where

    def next_block(self):
        if self._where == "next_block" and len(self.tokens) == 2:
            self._fail()
        return super().next_block()

    def receive(self, logits: Tensor) -> object:
        if self._where == "receive" and len(self.tokens) == 2:
            self._fail()
        return super().receive(logits)


def explode() -> None:
    raise KeyError("this work is broken")


@pytest.mark.parametrize("where", ["next_block", "receive"])
async def test_a_failing_work_fails_alone(engine: Engine, runner: GatedRunner, where: str) -> None:
    expected = [await alone(engine, prompt, 8) for prompt in PROMPTS]
    broken = Failing(await engine.open(), [3, 3], 8, fail=explode, where=where)
    results = await asyncio.gather(
        engine.run(broken), *(alone(engine, prompt, 8) for prompt in PROMPTS), return_exceptions=True
    )
    assert isinstance(results[0], KeyError)
    assert results[1:] == expected
    assert len(broken.tokens) == 2


async def test_a_block_that_the_model_cannot_take_fails_alone(engine: Engine, runner: GatedRunner) -> None:
    expected = await alone(engine, [1, 2, 3], 6)
    too_long = Greedy(await engine.open(), [1] * 513, 1)
    outside = Greedy(await engine.open(), [64], 1)
    results = await asyncio.gather(
        engine.run(too_long), engine.run(outside), alone(engine, [1, 2, 3], 6), return_exceptions=True
    )
    assert isinstance(results[0], ContextFullError)
    assert isinstance(results[1], ValueError)
    assert results[2] == expected


async def test_a_forward_that_fails_for_one_block_fails_that_block_alone(engine: Engine, runner: GatedRunner) -> None:
    expected = await alone(engine, [1, 2, 3], 6)
    blocker = await stuck_in_a_step(engine, runner)
    heavy = Greedy(await engine.open(), [7] * 100, 6)

    def out_of_memory(chunks) -> None:
        if any(chunk.sequence is heavy.sequence for chunk in chunks):
            raise MemoryError("no memory for a prompt like that")

    runner.before_run = out_of_memory
    tasks = [asyncio.create_task(engine.run(heavy)), asyncio.create_task(alone(engine, [1, 2, 3], 6))]
    await asyncio.sleep(0)
    runner.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await blocker
    assert isinstance(results[0], MemoryError)
    assert results[1] == expected
    assert heavy.sequence.length == 0


async def test_logits_that_are_not_finite_fail_one_work_alone(engine: Engine, runner: GatedRunner) -> None:
    expected = await alone(engine, [1, 2, 3], 6)
    runner.loaded.model.model.embed_tokens.weight[40] = torch.nan  # reaches those who feed token 40

    class Sampled(Greedy):
        def receive(self, logits: Tensor) -> object:
            SamplingChain(SamplingParams(), 64).log_probs(logits, History([40]))
            return super().receive(logits)

    works = [Sampled(await engine.open(), [40, 1], 6), Sampled(await engine.open(), [1, 2, 3], 6)]
    results = await asyncio.gather(*map(engine.run, works), return_exceptions=True)
    assert isinstance(results[0], NotFiniteError)
    assert works[1].tokens == expected


class Miscounting(Greedy):
    @classmethod
    def receive_all(cls, works, logits):
        return []


async def test_a_defect_in_a_step_does_not_end_the_engine(engine: Engine, runner: GatedRunner) -> None:
    expected = await alone(engine, [1, 2, 3], 6)
    with pytest.raises(ValueError):
        await engine.run(Miscounting(await engine.open(), [3, 3], 8))
    assert await alone(engine, [1, 2, 3], 6) == expected


async def test_what_a_fault_left_in_the_cache_is_not_found_again(engine: Engine, runner: GatedRunner) -> None:
    prompt = list(range(40))
    expected = await alone(engine, [*prompt, 50], 4)
    await until(lambda: runner.cache.pool.held == 0)
    runner.cache.pool.forget_idle()
    weight = runner.loaded.model.model.embed_tokens.weight
    before = weight[7].clone()
    weight[7] = torch.nan

    class Checked(Greedy):
        def receive(self, logits: Tensor) -> object:
            SamplingChain(SamplingParams(), 64).log_probs(logits, History([]))
            return super().receive(logits)

    work = Checked(await engine.open(), [*prompt, 51], 4)
    with pytest.raises(NotFiniteError):
        await engine.run(work)
    await engine.release(work.sequence)
    weight[7] = before
    assert await alone(engine, [*prompt, 50], 4) == expected


async def test_an_engine_that_fails_ends_its_works_though_a_step_never_returns(
    engine: Engine, runner: GatedRunner
) -> None:
    idle = await engine.open()
    stuck = await stuck_in_a_step(engine, runner)
    queued = asyncio.create_task(alone(engine, [2], 2))
    await until(lambda: engine.load().waiting == 2)
    engine.fail(EngineClosedError("rank 1 is gone"))
    for task in (stuck, queued):
        with pytest.raises(EngineClosedError, match="rank 1 is gone"):
            await task
    with pytest.raises(EngineClosedError):
        await engine.open()
    await engine.release(idle)
    await engine.close()
    assert engine.load().waiting == 0 and not runner.gate.is_set()
