"""What nobody has asked for yet: it fills steps, it never delays or displaces what was asked for, and it leaves
nothing behind."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from collections.abc import Sequence as Seq
from concurrent.futures import Future

import pytest
from torch import Tensor

from tandem.inference.engine import Engine
from tandem.inference.runner import Sequence
from tandem.inference.work import SingleWork
from tests.inference.works import PROMPTS, GatedRunner, Greedy, alone, started, until

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3]  # ends inside of a block


class Ahead(SingleWork):
    """`token` and `count` greedy tokens after it, on a branch."""

    def __init__(self, branch: Sequence, token: int, count: int, worth: float = 1.0) -> None:
        self.sequence = branch
        self.worth = worth
        self.tokens: list[int] = []
        self.error: Exception | None = None
        self._feed: Seq[int] | None = [token]
        self._count = count

    def next_block(self) -> tuple[Seq[int], int] | None:
        return None if self._feed is None else (self._feed, 1)

    def receive(self, logits: Tensor) -> None:
        token = int(logits[0].argmax())
        self.tokens.append(token)
        self._feed = [token] if len(self.tokens) < self._count else None

    def stopped(self, error: Exception) -> None:
        self.error = error


async def branched(
    engine: Engine, root: Sequence, tokens: Seq[int], count: int, length: int = len(PROMPT)
) -> list[Ahead]:
    """A work on a branch after `length` tokens of the root for each of `tokens`, the first worth most."""
    works: list[Ahead] = []

    def begin() -> None:
        for index, token in enumerate(tokens):
            works.append(Ahead(engine.branch(root, length), token, count, 1 / (1 + index)))
        for work in works:
            engine.run_ahead(work)

    engine.call(begin)
    await until(lambda: len(works) == len(tokens))
    return works


async def rooted(engine: Engine) -> Sequence:
    """A sequence of which the prompt has been run."""
    root = await engine.open()
    await engine.run(Greedy(root, PROMPT, 1))
    return root


def done(works: Seq[Ahead]) -> bool:
    return all(work._feed is None for work in works)


@pytest.mark.parametrize("length", [18, 16, 5])
async def test_a_branch_gets_the_tokens_that_its_text_gets_alone(length: int) -> None:
    runner = GatedRunner()
    async with started(runner, ahead_rows=4) as engine:
        expected = [await alone(engine, [*PROMPT[:length], token], 20) for token in (7, 8, 9)]
        root = await rooted(engine)
        works = await branched(engine, root, (7, 8, 9), 20, length)
        await until(lambda: done(works))
        assert [work.tokens for work in works] == expected
        # What they share stayed as it was.
        go_on = Greedy(root, [11], 20)
        await engine.run(go_on)
        assert go_on.tokens == await alone(engine, [*PROMPT, 11], 20)


async def test_works_that_were_asked_for_get_the_same_beside_branches() -> None:
    runner = GatedRunner()
    async with started(runner, ahead_rows=16) as engine:
        expected = [await alone(engine, prompt, 12) for prompt in PROMPTS]
        works = await branched(engine, await rooted(engine), range(20, 24), 40)
        asked = [Greedy(await engine.open(), prompt, 12) for prompt in PROMPTS]
        await asyncio.gather(*(engine.run(work) for work in asked))
        assert [work.tokens for work in asked] == expected
        assert any(len(step) > len(asked) for step in runner.chunks)  # some steps had both
        await until(lambda: done(works))


async def test_what_is_asked_for_waits_for_one_step_at_most_and_takes_the_room() -> None:
    runner = GatedRunner()
    async with started(runner, ahead_rows=6) as engine:  # three, beside three others
        root = await rooted(engine)
        others = [await engine.open() for _ in range(3)]
        runner.gate.clear()
        works = await branched(engine, root, range(20, 26), 400)
        await asyncio.to_thread(runner.waiting.wait, 30)  # a step of branches is under way
        asked = [Greedy(other, [1], 5) for other in others]
        tasks = [asyncio.create_task(engine.run(work)) for work in asked]
        await asyncio.sleep(0)
        before = len(runner.chunks)
        runner.gate.set()
        await asyncio.gather(*tasks)
        mine = {other.number for other in others}
        steps = runner.chunks[before : before + 5]
        assert [{number for number, _ in step} for step in steps] == [mine] * 5
        assert len(runner.chunks[before - 1]) == 3
        await until(lambda: any(len(work.tokens) > 1 for work in works))  # they go on


async def test_each_further_sequence_in_use_leaves_one_row_less_to_what_nobody_asked_for() -> None:
    runner = GatedRunner()
    async with started(runner, ahead_rows=4) as engine:
        root = await rooted(engine)
        runner.chunks.clear()
        others: list[Sequence] = []
        for rows in (4, 3, 2, 1):
            works = await branched(engine, root, range(20, 26), 3)
            await until(lambda works=works: all(work.sequence.closed or done([work]) for work in works))  # type: ignore
            assert max(len(step) for step in runner.chunks) == rows
            for work in works:
                engine.call(lambda work=work: engine.close_branch(work.sequence))  # type: ignore[misc]
            others.append(await engine.open())
            await engine.run(Greedy(others[-1], [1], 1))
            others[-1].last_used += 3600  # however long this takes
            runner.chunks.clear()
        least = await asyncio.wrap_future(_called(engine, engine.least_worth))
        assert least == math.inf  # nothing is begun
        for other in others:
            await engine.release(other)
        assert await asyncio.wrap_future(_called(engine, engine.least_worth)) == 0


async def test_a_sequence_that_is_idle_leaves_its_row_to_others() -> None:
    async with started(GatedRunner(), ahead_rows=1) as engine:
        await rooted(engine)
        other = await engine.open()
        other.last_used += 3600
        assert await asyncio.wrap_future(_called(engine, engine.least_worth)) == math.inf
        other.last_used -= 3660
        assert await asyncio.wrap_future(_called(engine, engine.least_worth)) == 0


def _called(engine: Engine, function: Callable[[], float]) -> Future[float]:
    """What `function` returns on the engine's thread."""
    future: Future[float] = Future()
    engine.call(lambda: future.set_result(function()))
    return future


async def test_the_branches_worth_most_go_first() -> None:
    runner = GatedRunner()
    async with started(runner, ahead_rows=2) as engine:
        root = await rooted(engine)
        runner.chunks.clear()
        works = await branched(engine, root, range(20, 24), 3)
        await until(lambda: done(works))
        numbers = [work.sequence.number for work in works]
        assert [step[0][0] for step in runner.chunks] == [numbers[0]] * 3 + [numbers[2]] * 3
        assert all(len(step) == 2 for step in runner.chunks)


async def test_of_more_branches_than_can_be_run_those_worth_least_end() -> None:
    async with started(GatedRunner(), ahead_rows=2) as engine:
        root = await rooted(engine)
        works = await branched(engine, root, range(20, 28), 3)
        await until(lambda: done(works[:4]))
        assert all(work.sequence.closed for work in works[4:])
        assert not any(work.sequence.closed for work in works[:4])


async def test_without_rows_for_them_there_are_none_on_a_cpu() -> None:
    async with started(GatedRunner()) as engine:
        assert engine.ahead_rows == 0


async def test_a_branch_gives_way_to_what_is_asked_for_and_never_takes_room() -> None:
    runner = GatedRunner(blocks=6)
    async with started(runner, ahead_rows=8) as engine:
        expected = await alone(engine, list(range(1, 60)), 2)
        runner.cache.pool.forget_idle()
        root = await rooted(engine)  # 2 blocks
        works = await branched(engine, root, range(20, 26), 400)  # each copies one
        await until(lambda: runner.cache.pool.available == 0)
        assert not any(work.error for work in works)
        # Four blocks: all branches give way before the older sequence does.
        asked = Greedy(await engine.open(), list(range(1, 60)), 2)
        await engine.run(asked)
        assert asked.tokens == expected
        assert root.cached == len(PROMPT)
        assert engine.load().preemptions == 0
        gone = [work for work in works if work.sequence.closed]
        assert gone
        await until(lambda: all(work.error is not None for work in gone))
        await engine.release(asked.sequence)
        await engine.release(root)
        await until(lambda: runner.cache.pool.held == 0)


async def test_a_root_takes_over_what_one_of_its_branches_has() -> None:
    runner = GatedRunner()
    async with started(runner, ahead_rows=8) as engine:
        expected = await alone(engine, [*PROMPT[:7], 30], 30)
        root = await rooted(engine)
        works = await branched(engine, root, (30, 31), 9, 7)
        await until(lambda: done(works))
        settle = asyncio.Event()
        loop = asyncio.get_running_loop()

        def take() -> None:
            root.become(works[0].sequence)
            engine.close_branch(works[1].sequence)
            loop.call_soon_threadsafe(settle.set)

        engine.call(take)
        await settle.wait()
        assert root.tokens == [*PROMPT[:7], 30, *expected[:8]]
        assert root.cached == root.length and not root.branches and all(work.sequence.closed for work in works)
        go_on = Greedy(root, [expected[8]], 21)
        await engine.run(go_on)
        assert [*expected[:9], *go_on.tokens] == expected
        await engine.release(root)
        await until(lambda: runner.cache.pool.held == 0)


async def test_a_branch_that_is_closed_ends_its_work_and_frees_what_it_held() -> None:
    runner = GatedRunner()
    async with started(runner, ahead_rows=8) as engine:
        root = await rooted(engine)
        before = runner.cache.pool.held
        works = await branched(engine, root, (30, 31), 400)
        await until(lambda: all(len(work.tokens) > 2 for work in works))
        for work in works:
            engine.call(lambda work=work: engine.close_branch(work.sequence))  # type: ignore[misc]
        await until(lambda: all(work.error is not None for work in works))
        assert runner.cache.pool.held == before


async def test_closing_a_sequence_closes_its_branches() -> None:
    runner = GatedRunner()
    async with started(runner, ahead_rows=8) as engine:
        root = await rooted(engine)
        works = await branched(engine, root, (30, 31), 400)
        await until(lambda: all(len(work.tokens) > 2 for work in works))
        await engine.release(root)
        await until(lambda: all(work.error is not None for work in works))
        assert runner.cache.pool.held == 0


async def test_an_engine_that_closes_in_the_middle_leaves_nothing_held() -> None:
    runner = GatedRunner()
    async with started(runner, ahead_rows=8) as engine:
        root = await rooted(engine)
        works = await branched(engine, root, (30, 31), 400)
        await until(lambda: all(len(work.tokens) > 2 for work in works))
        await engine.close()
        assert all(work.error is not None for work in works)
        await engine.release(root)
        assert runner.cache.pool.held == 0


async def test_a_call_between_steps_that_fails_ends_nothing() -> None:
    async with started(GatedRunner(), ahead_rows=8) as engine:
        expected = await alone(engine, [1, 2], 3)
        engine.call(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
        assert await alone(engine, [1, 2], 3) == expected
