"""A step waits for those who are on their way, where more works a second come of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence as Seq

import pytest
from torch import Tensor

from tandem.inference.rhythm import Rhythm
from tandem.inference.runner import Chunk
from tests.inference.works import GatedRunner, Greedy, alone, started

A, B, C = 1, 2, 3


def rhythm(step: float, **away: Seq[float]) -> Rhythm:
    """Sequences that were away so long at a time and left again at 100."""
    found = Rhythm()
    found.stepped(1, step)
    for number, gaps in enumerate(away.values(), start=1):
        now = 0.0
        for gap in gaps:
            found.left(number, now)
            found.came(number, now + gap)
            now += gap
        found.left(number, 100.0)
    return found


def test_it_waits_as_long_as_the_other_takes_as_a_rule() -> None:
    assert rhythm(30, a=[4, 4, 4]).waits(1, 100, 100) == pytest.approx(4)
    assert rhythm(30, a=[4, 4, 4]).waits(1, 100, 103) == pytest.approx(1)


@pytest.mark.parametrize(
    "why",
    ["nobody is here", "nobody is away", "it has never been away", "it comes too late", "too many are here",
     "it is overdue", "it has left for good", "nothing is known of steps"],
)  # fmt: skip
def test_it_does_not_wait_where(why: str) -> None:
    found, here, now = rhythm(30, a=[4, 4]), 1, 100.0
    match why:
        case "nobody is here":
            here = 0
        case "nobody is away":
            found.came(A, 100)
        case "it has never been away":
            found = rhythm(30, a=[])
        case "it comes too late":
            found = rhythm(30, a=[31, 31])  # two in 61
        case "too many are here":
            here = 8
        case "it is overdue":
            now = 104.5
        case "it has left for good":
            found.gone(A)
        case "nothing is known of steps":
            found = Rhythm()
            for at in (0, 10):
                found.left(A, at)
                found.came(A, at + 4)
            found.left(A, 100)
    assert found.waits(here, 100, now) == 0


def test_it_waits_for_the_last_for_whom_it_is_worth_it() -> None:
    found = rhythm(30, a=[2], b=[3], c=[25])
    assert found.waits(4, 100, 100) == pytest.approx(3)
    # Where those here are few, and the third is not that late.
    assert rhythm(30, a=[2], b=[3], c=[5]).waits(2, 100, 100) == pytest.approx(5)


def test_one_that_is_mostly_quick_and_sometimes_late_is_not_waited_for_beyond_its_time() -> None:
    found = rhythm(30, a=[4, 4, 4, 4, 4, 4, 40, 40])
    assert found.waits(1, 100, 100) == pytest.approx(4)
    assert found.waits(1, 100, 104.1) == 0  # this is one of the late times


def test_all_waits_before_a_step_are_no_longer_than_it() -> None:
    names = "abcdefgh"
    found, now = rhythm(10, **dict.fromkeys(names, [3.0, 6.0, 9.0, 12.0, 15.0])), 100.0
    while seconds := found.waits(1, 100, now):
        now += seconds
    assert 103 < now <= 110


def test_only_the_part_of_a_step_that_does_not_depend_on_who_is_in_it_counts() -> None:
    found = rhythm(12, a=[4, 4])
    assert found.waits(1, 100, 100) == pytest.approx(4)
    for _ in range(200):
        for works in (1, 2, 3):
            found.stepped(works, 2 + 10 * works)
    assert found.fixed == pytest.approx(2, abs=0.1)
    assert found.waits(1, 100, 100) == 0  # though a step takes 12


def test_steps_that_are_all_alike_are_taken_as_fixed() -> None:
    found = Rhythm()
    assert found.fixed == 0
    for _ in range(9):
        found.stepped(4, 7.0)
    assert found.fixed == 7


class Slow(GatedRunner):
    """Takes a while for each step, whatever is in it."""

    def run(self, chunks: Seq[Chunk]) -> list[Tensor]:
        time.sleep(0.04)
        return super().run(chunks)


async def test_callers_that_miss_each_other_come_to_share_steps_and_get_the_same() -> None:
    runner = Slow()
    async with started(runner) as engine:
        expected = [await alone(engine, prompt, 40) for prompt in ([1, 2, 3], [4, 5])]
        runner.chunks.clear()

        async def call(prompt: list[int]) -> list[int]:
            sequence, feed = await engine.open(), prompt
            tokens: list[int] = []
            while len(tokens) < 40:
                work = Greedy(sequence, feed, 1)
                await engine.run(work)
                tokens += work.tokens
                feed = work.tokens[-1:]
                await asyncio.sleep(0.004)  # what it does with it
            await engine.release(sequence)
            return tokens

        first = asyncio.create_task(call([1, 2, 3]))
        while not runner.chunks:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)  # the step of the other is half over
        assert await asyncio.gather(first, call([4, 5])) == expected
        # In turns it would be eighty.
        assert len(runner.chunks) < 50
