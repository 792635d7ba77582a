"""What an engine takes: never more than it is bounded to, nobody who clearly comes too late, and no step for either."""

from __future__ import annotations

import asyncio
import random

import pytest

from tandem.inference.engine import DeadlinePassedError, Engine, EngineFullError
from tests.inference.works import GatedRunner, Greedy, alone, settled, started, stuck_in_a_step, until


@pytest.fixture
def runner() -> GatedRunner:
    return GatedRunner()


def taught(engine: Engine, token_seconds: float, *, computed: int = 100, found: int = 0) -> None:
    """As after steps that prompts filled."""
    engine._admission.stepped(100 * token_seconds, 100, computed=computed, found=found)


async def refused(engine: Engine, priority: int = 0, *, tokens: int, within: float) -> EngineFullError:
    before = engine.load().sequences
    with pytest.raises(EngineFullError) as caught:
        await engine.open(priority, tokens=tokens, within=within)
    assert engine.load().sequences == before
    return caught.value


async def taken(engine: Engine, priority: int = 0, *, tokens: int, within: float | None) -> None:
    await engine.release(await engine.open(priority, tokens=tokens, within=within))


async def test_who_cannot_have_a_token_in_time_is_refused_at_once_and_costs_no_step(runner: GatedRunner) -> None:
    async with started(runner, max_queue=64) as engine:
        taught(engine, 0.1)
        for _ in range(5):
            await engine.open(tokens=100)  # 50 s of work
        error = await refused(engine, tokens=100, within=10.0)
        assert error.limit == "deadline" and error.retry_after > 0
        assert runner.batches == []
        for within in (100.0, None):
            await taken(engine, tokens=100, within=within)


async def test_only_the_clearly_hopeless_is_refused(runner: GatedRunner) -> None:
    """An estimate may be wrong by half."""
    async with started(runner) as engine:
        taught(engine, 0.1)
        assert engine._admission.estimate(0, 100) == pytest.approx(10.0)
        await taken(engine, tokens=100, within=5.1)
        await refused(engine, tokens=100, within=4.9)


async def test_nobody_is_refused_for_a_deadline_while_nothing_is_known(runner: GatedRunner) -> None:
    async with started(runner) as engine:
        for _ in range(10):
            await engine.open(tokens=10_000)
        await taken(engine, tokens=10_000, within=0.01)


async def test_who_goes_first_does_not_wait_for_those_behind(runner: GatedRunner) -> None:
    async with started(runner) as engine:
        taught(engine, 0.1)
        for _ in range(10):
            await engine.open(tokens=1000)
        await taken(engine, 1, tokens=100, within=6.0)  # a larger priority
        await taken(engine, tokens=100, within=6.0)  # a shorter prompt
        await refused(engine, tokens=1000, within=60.0)
        await refused(engine, -1, tokens=100, within=60.0)


async def test_what_is_found_in_the_cache_takes_no_time(runner: GatedRunner) -> None:
    async with started(runner) as engine:
        taught(engine, 0.1, computed=100, found=900)
        assert engine._admission.estimate(0, 100) == pytest.approx(1.0)


async def test_a_queued_sequence_whose_deadline_passes_leaves_without_a_step(runner: GatedRunner) -> None:
    async with started(runner) as engine:
        stuck = await stuck_in_a_step(engine, runner)
        late = await engine.open(within=0.05)
        work = asyncio.create_task(engine.run(Greedy(late, [1, 2, 3], 2)))
        await asyncio.sleep(0.1)
        runner.gate.set()
        with pytest.raises(DeadlinePassedError):
            await work
        await engine.release(late)
        await stuck
        await settled(engine)
        assert late.number not in {number for step in runner.chunks for number, _ in step}
        await until(lambda: not engine.load().cache_bytes)
        assert engine.load().sequences == engine.load().queued == 0


async def test_a_sequence_under_way_ends_with_its_deadline(runner: GatedRunner) -> None:
    async with started(runner) as engine:
        sequence = await engine.open(within=0.2)
        with pytest.raises(DeadlinePassedError):
            await engine.run(Greedy(sequence, [1, 2, 3], 10**6))
        await engine.release(sequence)
        assert len(await alone(engine, [1, 2], 3)) == 3


async def test_real_steps_teach_the_pace(runner: GatedRunner) -> None:
    async with started(runner, step_tokens=16) as engine:
        await alone(engine, list(range(1, 60)) * 3, 1)
        await until(lambda: engine._admission.estimate(0, 1000) > 0)
        await refused(engine, tokens=10**9, within=1.0)


async def test_there_are_never_more_than_the_bounds_whoever_comes_and_goes(runner: GatedRunner) -> None:
    source = random.Random(5)
    async with started(runner, max_sequences=6, max_queue=3) as engine:
        most_open = most_queued = refusals = 0

        async def caller() -> None:
            nonlocal most_open, most_queued, refusals
            for _ in range(30):
                try:
                    sequence = await engine.open(source.randint(-1, 1), tokens=4)
                except EngineFullError as error:
                    assert error.retry_after > 0
                    refusals += 1
                    await asyncio.sleep(0.001)
                    continue
                load = engine.load()
                most_open, most_queued = max(most_open, load.sequences), max(most_queued, load.queued)
                if source.random() < 0.8:
                    await engine.run(Greedy(sequence, [1, 2, 3, 4], source.randint(1, 3)))
                await engine.release(sequence)

        await asyncio.gather(*(caller() for _ in range(12)))
        assert most_open <= 6 and most_queued <= 3 and refusals
        load = engine.load()
        assert (load.sequences, load.queued, load.max_sequences, load.max_queue) == (0, 0, 6, 3)
