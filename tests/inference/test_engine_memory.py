"""More sequences than the cache has room for: everyone gets what it would get alone, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random

import pytest

from tandem.inference.engine import Engine, EngineFullError
from tandem.inference.runner import CacheTooSmallError
from tandem.inference.table import BLOCK_SIZE
from tests.inference.works import GatedRunner, Greedy, alone, settled, started, until

BLOCKS = 12


@pytest.fixture
def runner() -> GatedRunner:
    return GatedRunner(blocks=BLOCKS)


def text(length: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(64), k=length)


def nothing_is_held(runner: GatedRunner) -> bool:
    pool = runner.cache.pool
    return pool.held == 0 and pool.available == pool.count


@pytest.mark.parametrize("step_tokens", [16, 4096])
@pytest.mark.parametrize("common", [0, 40])
async def test_works_that_give_way_to_each_other_get_the_tokens_they_get_alone(
    runner: GatedRunner, step_tokens: int, common: int
) -> None:
    """Eight of five blocks each, of which two fit. common: tokens that all texts begin with."""
    prompts = [text(common, 99) + text(60 - common, seed) for seed in range(8)]
    async with started(GatedRunner()) as roomy:
        expected = [await alone(roomy, prompt, 20) for prompt in prompts]
    async with started(runner, step_tokens=step_tokens) as engine:
        found = await asyncio.gather(*(alone(engine, prompt, 20) for prompt in prompts))
        assert found == expected
        assert engine.load().preemptions > 0
        await until(lambda: nothing_is_held(runner))


async def test_a_sequence_that_the_cache_has_no_room_for_fails_alone(runner: GatedRunner) -> None:
    largest = BLOCKS * BLOCK_SIZE
    async with started(runner) as engine:
        expected = await alone(engine, [1, 2, 3], 5)
        growing = Greedy(await engine.open(), text(largest - 5, 1), 10)
        results = await asyncio.gather(
            alone(engine, text(largest + 1, 1), 1),
            engine.run(growing),
            alone(engine, [1, 2, 3], 5),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [CacheTooSmallError, CacheTooSmallError, list]
        assert str(results[0]) == f"{largest + 1} tokens do not fit the key-value cache, which holds {largest}"
        assert results[2] == expected
        assert len(growing.tokens) == 6  # five and the one after the last that fits
        await engine.release(growing.sequence)
        assert len(await alone(engine, text(largest, 1), 1)) == 1


async def test_a_prompt_that_was_there_before_is_not_run_again(runner: GatedRunner) -> None:
    prompt = text(70, 1)
    async with started(runner) as engine:
        first = await alone(engine, prompt, 10)
        await settled(engine)
        runner.chunks.clear()
        assert await alone(engine, prompt, 10) == first
        # Four whole blocks were found; the last token's logits are wanted, and each token's after it.
        assert sum(count for step in runner.chunks for _, count in step) == 70 - 64 + 9


@pytest.mark.parametrize("limits", [{}, {"step_tokens": 16}])
async def test_a_thousand_callers_that_come_and_go_leave_nothing(runner: GatedRunner, limits: dict[str, int]) -> None:
    chance = random.Random(3)
    prompts = [text(chance.randint(1, 60), seed) for seed in range(6)]
    async with started(GatedRunner()) as roomy:
        expected = [await alone(roomy, prompt, 6) for prompt in prompts]

    async def call(engine: Engine) -> None:
        index, count, moments = chance.randrange(6), chance.randint(1, 6), chance.choice((0, 1, 3, 20, None))
        sequence = await engine.open()
        work = Greedy(sequence, prompts[index], count)
        task = asyncio.create_task(engine.run(work))
        if moments is None:
            await task
            assert work.tokens == expected[index][:count]
        else:
            for _ in range(moments):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await engine.release(sequence)

    async def calls(engine: Engine, count: int) -> None:
        for _ in range(count):
            await call(engine)

    async with started(runner, **limits) as engine:
        await asyncio.gather(*(calls(engine, 50) for _ in range(20)))
        await until(lambda: nothing_is_held(runner))
        load = engine.load()
        assert (load.sequences, load.waiting, load.cache_bytes) == (0, 0, 0)
        assert await alone(engine, prompts[0], 6) == expected[0]


async def test_a_caller_that_leaves_frees_its_blocks_before_the_next_step(runner: GatedRunner) -> None:
    async with started(runner) as engine:
        leaving, staying = [Greedy(await engine.open(), text(40, seed), 80) for seed in (1, 2)]
        held: list[tuple[int, ...]] = []

        def note(chunks: object) -> None:
            held.append((runner.cache.pool.held, *(len(work.sequence.table.blocks) for work in (leaving, staying))))
            if len(held) == 4:
                runner.gate.clear()

        runner.before_run = note
        tasks = [asyncio.create_task(engine.run(work)) for work in (leaving, staying)]
        await asyncio.to_thread(runner.waiting.wait, 30)
        tasks[0].cancel()
        await engine.release(leaving.sequence)
        runner.gate.set()
        await until(lambda: len(held) > 5)
        assert held[4] == (6, 3, 3)  # of the step that was under way
        assert held[5] == (3, 0, 3)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_block_that_nobody_awaits_any_more_has_never_been_fed(runner: GatedRunner) -> None:
    """Also where a part of it has been run: what comes next on the sequence does not stand on it."""
    prompt = text(20, 1)
    async with started(runner, step_tokens=16) as engine:
        expected = await alone(engine, prompt, 5)
        sequence = await engine.open()
        await engine.run(Greedy(sequence, prompt[:3], 1))
        runner.chunks.clear()
        runner.before_run = lambda chunks: runner.gate.clear() if len(runner.chunks) == 2 else None
        task = asyncio.create_task(engine.run(Greedy(sequence, text(100, 2), 1)))
        await asyncio.to_thread(runner.waiting.wait, 30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        runner.gate.set()
        await settled(engine)
        assert sequence.length == 3
        work = Greedy(sequence, prompt[3:], 5)
        await engine.run(work)
        assert work.tokens == expected


@pytest.mark.parametrize(
    "limits, message",
    [
        ({"max_sequences": 3}, "all 3 sequences are taken"),
        ({"max_queue": 3}, "3 sequences wait for their first step"),
    ],
)
async def test_a_full_engine_says_when_to_come_again_and_takes_callers_afterwards(
    runner: GatedRunner, limits: dict[str, int], message: str
) -> None:
    async with started(runner, **limits) as engine:
        sequences = [await engine.open() for _ in range(3)]
        for _ in range(2):
            with pytest.raises(EngineFullError, match=message) as refused:
                await engine.open()
            assert 0.5 <= refused.value.retry_after <= 30
        assert engine.load().sequences == 3
        if "max_queue" in limits:
            await engine.run(Greedy(sequences[0], [1, 2], 1))
        else:
            await engine.release(sequences[0])
        assert len(await alone(engine, [1, 2], 3)) == 3
        for sequence in sequences:
            await engine.release(sequence)
        for _ in range(5):
            await alone(engine, [1], 1)


async def test_who_is_refused_waits_longer_where_more_is_waiting(runner: GatedRunner) -> None:
    async with started(runner, max_sequences=2, step_tokens=16) as engine:
        engine._admission._token_seconds = 0.05
        sequences = [await engine.open(), await engine.open()]
        runner.gate.clear()
        task = asyncio.create_task(engine.run(Greedy(sequences[0], text(100, 1), 1)))
        await asyncio.to_thread(runner.waiting.wait, 30)
        with pytest.raises(EngineFullError) as refused:
            await engine.open()
        assert refused.value.retry_after == pytest.approx(5)
        runner.gate.set()
        await task


async def test_waiting_for_room_ends_with_the_step_that_has_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others held the whole cache once: the steps after that do not look around for messages at leisure."""
    plan, plans, waits = engine._scheduler.plan, 0, []
    get = engine._inbox.get

    def without_room_at_first(tasks):
        nonlocal plans
        plans += 1
        return plan(tasks) if plans > 1 else []

    class Inbox:
        put, get_nowait = engine._inbox.put, engine._inbox.get_nowait

        @staticmethod
        def get(block: bool = True, timeout: float | None = None):
            waits.append(timeout)
            return get(block, timeout)

    monkeypatch.setattr(engine._scheduler, "plan", without_room_at_first)
    monkeypatch.setattr(engine, "_inbox", Inbox)
    assert len(await alone(engine, [1, 2, 3], 10)) == 10
    assert plans == 11
    assert sum(timeout is not None for timeout in waits) == 1
