"""One thread, many works: they share steps, and nothing that happens to one is felt by another."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import aclosing

import pytest

from tandem.inference.engine import Engine, EngineClosedError
from tandem.inference.runner import SequenceClosedError
from tests.inference.works import PROMPTS, GatedRunner, Greedy, alone, settled, stuck_in_a_step, until


async def test_works_beside_each_other_get_the_tokens_they_get_alone(engine: Engine, runner: GatedRunner) -> None:
    expected = [await alone(engine, prompt, 10) for prompt in PROMPTS]
    blocker = await stuck_in_a_step(engine, runner)
    works = [Greedy(await engine.open(), prompt, 10) for prompt in PROMPTS]
    tasks = [asyncio.create_task(engine.run(work)) for work in works]
    await asyncio.sleep(0)  # each task submits its work
    runner.batches.clear()
    runner.gate.set()
    timings = await asyncio.gather(*tasks)
    await blocker
    assert [work.tokens for work in works] == expected
    assert [timing.steps for timing in timings] == [10] * 4
    # All four shared their first step with the one that was under way: nobody waited for a turn.
    assert runner.batches[0] == 5


async def test_timing_counts_waiting_and_computing_apart(engine: Engine, runner: GatedRunner) -> None:
    timing = await engine.run(Greedy(await engine.open(), [1, 2], 3))
    assert timing.steps == 3
    assert timing.compute_microseconds > 0
    blocker = await stuck_in_a_step(engine, runner)
    task = asyncio.create_task(engine.run(Greedy(await engine.open(), [1, 2], 1)))
    await asyncio.sleep(0)
    held = time.perf_counter()
    await asyncio.to_thread(str)
    least = time.perf_counter() - held
    runner.gate.set()
    waited = await task
    await blocker
    assert waited.queue_microseconds >= int(least * 1e6)
    assert waited.steps == 1


async def test_results_are_streamed_while_the_work_goes_on(engine: Engine, runner: GatedRunner) -> None:
    expected = await alone(engine, [1, 2, 3], 4)
    tokens, steps = [], []
    async with aclosing(engine.stream(Greedy(await engine.open(), [1, 2, 3], 4))) as items:
        async for token, timing in items:
            tokens.append(token)
            steps.append(timing.steps)
            if len(tokens) == 1:
                assert engine.load().waiting == 1
    assert tokens == expected
    assert steps == [1, 1, 1, 1]
    assert engine.load().waiting == 0


async def test_leaving_a_stream_ends_its_work(engine: Engine, runner: GatedRunner) -> None:
    work = Greedy(await engine.open(), [1], 400)
    async with aclosing(engine.stream(work)) as items:
        async for _ in items:
            break
    await settled(engine)
    done = len(work.tokens)
    await settled(engine)
    assert len(work.tokens) == done < 400
    assert engine.load().waiting == 0


async def test_cancelling_takes_effect_before_the_next_step_and_frees_the_cache(
    engine: Engine, runner: GatedRunner
) -> None:
    blocker = await stuck_in_a_step(engine, runner)
    sequence = await engine.open()
    work = Greedy(sequence, [1, 2, 3], 100)
    task = asyncio.create_task(engine.run(work))
    await asyncio.sleep(0)
    assert engine.load().waiting == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await engine.release(sequence)
    runner.gate.set()
    await blocker
    assert work.tokens == []
    assert set(runner.batches) == {1}
    load = engine.load()
    assert (load.sequences, load.waiting) == (0, 0)
    assert (sequence.closed, sequence.table.blocks) == (True, [])


async def test_a_sequence_released_during_its_own_step_is_freed_after_it(engine: Engine, runner: GatedRunner) -> None:
    sequence = await engine.open()
    runner.gate.clear()
    work = Greedy(sequence, [1, 2, 3], 100)
    task = asyncio.create_task(engine.run(work))
    await asyncio.to_thread(runner.waiting.wait, 30)
    task.cancel()
    await engine.release(sequence)
    runner.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settled(engine)
    assert len(work.tokens) <= 1  # of the step that was under way
    assert sequence.table.blocks == []


async def test_releasing_under_a_work_that_nobody_cancelled_fails_that_work(
    engine: Engine, runner: GatedRunner
) -> None:
    blocker = await stuck_in_a_step(engine, runner)
    sequence = await engine.open()
    task = asyncio.create_task(engine.run(Greedy(sequence, [1], 5)))
    await asyncio.sleep(0)
    await engine.release(sequence)
    runner.gate.set()
    with pytest.raises(SequenceClosedError):
        await task
    assert len(await blocker) == 2
    assert sequence.table.blocks == []


async def test_works_on_one_sequence_run_one_after_the_other(engine: Engine, runner: GatedRunner) -> None:
    expected = await alone(engine, [1, 2, 3], 4)
    blocker = await stuck_in_a_step(engine, runner)
    sequence = await engine.open()
    first = Greedy(sequence, [1, 2], 1)
    second = Greedy(sequence, [3], 4)
    tasks = [asyncio.create_task(engine.run(work)) for work in (first, second)]
    await asyncio.sleep(0)
    runner.gate.set()
    await asyncio.gather(*tasks, blocker)
    assert second.tokens == expected


async def test_the_event_loop_stays_free_while_the_model_is_busy(engine: Engine, runner: GatedRunner) -> None:
    blocker = await stuck_in_a_step(engine, runner)
    # Everything a service does meanwhile: the step ends only after all of it has been done.
    sequence = await engine.open()
    waiting = asyncio.create_task(engine.run(Greedy(sequence, [1], 1)))
    await asyncio.sleep(0)
    assert engine.load().waiting == 2
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await engine.release(sequence)
    assert runner.waiting.is_set() and not blocker.done()
    runner.gate.set()
    assert len(await blocker) == 2


async def test_load_counts_the_bytes_of_blocks_that_sequences_hold(engine: Engine, runner: GatedRunner) -> None:
    assert engine.load().cache_bytes == 0
    sequences = [await engine.open() for _ in range(3)]
    for number, sequence in enumerate(sequences):
        await engine.run(Greedy(sequence, [number] * 17, 1))
    load = engine.load()
    assert load.sequences == 3
    assert load.cache_bytes == 3 * 2 * runner.cache.block_bytes
    assert load.cache_capacity_bytes == runner.cache.pool.count * runner.cache.block_bytes
    for sequence in sequences:
        await engine.release(sequence)
    await until(lambda: engine.load().cache_bytes == 0)


async def test_closing_fails_what_is_under_way_and_what_comes_later(engine: Engine, runner: GatedRunner) -> None:
    runner.gate.clear()
    sequence = await engine.open()
    running = asyncio.create_task(engine.run(Greedy(sequence, [1], 5)))
    await asyncio.to_thread(runner.waiting.wait, 30)
    queued = asyncio.create_task(engine.run(Greedy(await engine.open(), [1], 5)))
    await asyncio.sleep(0)
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    runner.gate.set()
    await closing
    for task in (running, queued):
        with pytest.raises(EngineClosedError):
            await task
    with pytest.raises(EngineClosedError):
        await engine.open()
    with pytest.raises(EngineClosedError):
        await engine.run(Greedy(sequence, [1], 5))
    await engine.release(sequence)
    assert sequence.table.blocks == []
    assert "tandem-engine" not in {thread.name for thread in threading.enumerate()}
    await engine.close()


async def test_an_engine_that_was_never_started_closes(runner: GatedRunner) -> None:
    engine = Engine(runner)
    task = asyncio.create_task(engine.run(Greedy(await engine.open(), [1], 5)))
    await asyncio.sleep(0)
    await engine.close()
    with pytest.raises(EngineClosedError):
        await task
