"""Steps are for those who are there and read: who is behind gets no more for now, who has left none at all."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

from tandem.inference.engine import Engine
from tandem.inference.turns import Turns
from tests.inference.works import GatedRunner, Greedy, alone, started, until


async def test_one_who_does_not_read_gets_no_more_steps_and_loses_nothing(runner: GatedRunner) -> None:
    count = 300
    async with started(runner) as engine:
        expected = await alone(engine, [1, 2], count)
        runner.batches.clear()
        work = Greedy(await engine.open(), [1, 2], count)
        async with aclosing(engine.stream(work)) as items:
            found = [(await anext(items))[0]]
            await until(lambda: len(runner.batches) >= 64)
            await asyncio.sleep(0.3)
            ahead = len(runner.batches)
            assert ahead <= 66
            # Others are none the worse for it, and the engine does not look for work without end.
            assert await alone(engine, [3], 20) == await alone(engine, [3], 20)
            assert len(work.tokens) <= 66
            found += [item async for item, _ in items]
        assert found == expected
        await engine.release(work.sequence)


async def test_works_of_a_sequence_keep_their_order_where_the_first_is_not_read(runner: GatedRunner) -> None:
    async with started(runner) as engine:
        sequence = await engine.open()
        first = Greedy(sequence, [1, 2], 100)
        async with aclosing(engine.stream(first)) as items:
            await anext(items)
            await until(lambda: len(first.tokens) >= 64)
            second = asyncio.create_task(engine.run(Greedy(sequence, [5], 1)))
            await asyncio.sleep(0.1)
            assert not second.done()
            assert len([item async for item in items]) == 99
        await second
        await engine.release(sequence)


async def test_one_who_leaves_while_the_turn_is_anothers_gets_no_step(runner: GatedRunner, tmp_path: Path) -> None:
    other = Turns(tmp_path / "turns", keeps=True)
    other.begin()
    engine = Engine(runner, turns=Turns(tmp_path / "turns", keeps=False))
    engine.start()
    try:
        work = Greedy(await engine.open(), [1] * 50, 4)
        waiting = asyncio.create_task(engine.run(work))
        await until(lambda: bool(engine._jobs))
        waiting.cancel()
        await asyncio.wait({waiting})
        await engine.release(work.sequence)
        other.end(more=False)
        assert len(await alone(engine, [7], 2)) == 2  # who comes next is served
        numbers = {number for step in runner.chunks for number, _ in step}
        assert work.sequence.number not in numbers and len(work.tokens) == 0
    finally:
        other.close()
        await engine.close()
