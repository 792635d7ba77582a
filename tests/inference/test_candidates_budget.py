"""A step with a budget of candidates: what is cut, and what a work is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from tandem.inference.blocks import BlockPool
from tandem.inference.engine import Engine
from tandem.inference.scheduler import Budget, Scheduler, Task
from tandem.inference.sequence import Sequence
from tandem.inference.table import BlockTable
from tandem.inference.work import SingleWork
from tests.inference.works import GatedRunner, started, until

TEXTS = [[1, 2, 3], [7, 8], [20, 21, 22, 23]]


class House:
    """A scheduler over a pool, with a budget of candidates."""

    def __init__(self, candidates: int = 0, *, weighs: bool = False) -> None:
        self._pool = BlockPool(64)
        self.scheduler = Scheduler(self._pool, Budget(48, 64, candidates=candidates, weighs=weighs))
        self._texts = iter(range(1 << 40))

    def block(self, scores: Seq[float], cached: int = 20, behind: int = 1) -> Task:
        """Of a sequence of its own: `behind` tokens that it has to take in, and a candidate for each score."""
        sequence = Sequence(BlockTable(self._pool, lambda *_: None))
        self.scheduler.add(sequence)
        sequence.extend([next(self._texts)] * cached)
        sequence.table.reserve(cached)
        sequence.advance(cached, 0)
        sequence.extend([next(self._texts)] * (behind + len(scores)))
        return Task(sequence, len(scores) + 1, scores=list(scores))

    def counts(self, *tasks: Task) -> dict[Task, tuple[int, int]]:
        return {task: (chunk.count, chunk.logits_rows) for task, chunk in self.scheduler.plan(tasks)}


def test_blocks_are_cut_to_the_best_candidates_of_all() -> None:
    house = House(3)
    sure, unsure, plain = house.block([-0.1, -0.2, -0.9]), house.block([-0.5, -0.6]), house.block([])
    assert house.counts(sure, unsure, plain) == {sure: (3, 3), unsure: (2, 2), plain: (1, 1)}
    assert [task.sequence.length for task in (sure, unsure, plain)] == [23, 22, 21]


def test_a_block_may_lose_all_and_still_has_its_own_token() -> None:
    house = House(2)
    sure, unsure = house.block([-0.1, -0.2]), house.block([-0.5])
    assert house.counts(sure, unsure) == {sure: (3, 3), unsure: (1, 1)}


def test_what_the_budget_holds_is_not_cut() -> None:
    house = House(5)
    tasks = house.block([-3.0, -9.0]), house.block([-0.5] * 3)
    assert [house.counts(*tasks)[task] for task in tasks] == [(3, 3), (4, 4)]


def test_what_has_a_prompt_to_take_in_does_not_compete() -> None:
    house = House(2)
    again, verify = house.block([0.0, 0.0], behind=90), house.block([-1.0, -2.0])
    counts = house.counts(again, verify)
    assert counts[verify] == (3, 3) and counts[again][1] == 0 and len(again.scores) == 2


def test_what_costs_more_than_it_is_worth_by_steps_that_were_measured_is_left_off() -> None:
    house = House(weighs=True)
    before = house.block([-0.1, -3.0])
    assert house.counts(before) == {before: (3, 3)}  # nothing is known yet
    for tokens in (1, 2, 4, 8, 16) * 4:
        house.scheduler.stepped(tokens, 0.01 + 0.005 * tokens)
    # 2 tokens in 20 ms: the first makes .9 in 5 more ms, the second .05.
    sure, plain = house.block([-0.1, -3.0]), house.block([])
    assert house.counts(sure, plain) == {sure: (2, 2), plain: (1, 1)}


class Proposing(SingleWork):
    """A text and candidates after it; keeps their logits."""

    def __init__(self, sequence: Sequence, text: Seq[int], scores: Seq[float] = ()) -> None:
        self.sequence = sequence
        self.logits: Tensor | None = None
        self.told: list[int] = []
        self._text = text
        self._scores = scores

    def next_block(self) -> tuple[Seq[int], int] | None:
        return None if self.logits is not None else ([*self._text, *([5] * len(self._scores))], len(self._scores) + 1)

    def scores(self) -> Seq[float]:
        return self._scores

    def cut(self, count: int) -> None:
        self.told.append(count)

    def receive(self, logits: Tensor) -> None:
        self.logits = logits.clone()


async def test_a_work_is_told_and_gets_the_rows_of_what_was_run() -> None:
    scores = [[-0.1, -0.2, -3.0], [-0.3], [-1.0, -2.0]]
    runner = GatedRunner()
    async with started(runner, candidates=4) as engine:
        assert engine.chooses
        works = [Proposing(await engine.open(), text, own) for text, own in zip(TEXTS, scores, strict=True)]
        await together(engine, runner, works)
        lengths = [work.sequence.length for work in works]
    assert [work.told for work in works] == [[2], [], [1]]
    assert lengths == [5, 3, 5]
    whole = GatedRunner()
    async with started(whole) as engine:
        assert not engine.chooses
        for work, text, kept in zip(works, TEXTS, (2, 1, 1), strict=True):
            alone = Proposing(await engine.open(), text, [0.0] * kept)
            await engine.run(alone)
            assert work.logits is not None and alone.logits is not None and alone.told == []
            torch.testing.assert_close(work.logits, alone.logits, rtol=0, atol=1e-4)


async def together(engine: Engine, runner: GatedRunner, works: Seq[Proposing]) -> None:
    """All in one step, behind another that stands still until they have been submitted."""
    runner.gate.clear()
    first = asyncio.create_task(engine.run(Proposing(await engine.open(), [9])))
    await asyncio.to_thread(runner.waiting.wait, 30)
    running = [asyncio.create_task(engine.run(work)) for work in works]
    await until(lambda: engine.load().waiting == len(works) + 1)
    runner.gate.set()
    await asyncio.gather(first, *running)
