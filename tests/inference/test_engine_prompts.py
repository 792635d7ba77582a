"""A long prompt is run in pieces: others go on in between, and what goes wrong in one of them ends it alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tandem.inference.runner import ContextFullError
from tandem.sampling import History, NotFiniteError, SamplingChain, SamplingParams
from tests.inference.works import GatedRunner, Greedy, alone, started, stuck_in_a_step


@pytest.fixture
def runner() -> GatedRunner:
    return GatedRunner(blocks=24)


def text(length: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(40), k=length)


async def test_a_long_prompt_is_run_in_pieces_while_others_decode(runner: GatedRunner) -> None:
    prompt = text(150, 5)
    async with started(GatedRunner(), step_tokens=4096) as roomy:
        expected = [await alone(roomy, prompt, 4), await alone(roomy, [1, 2], 30)]
    async with started(runner, step_tokens=24) as engine:
        blocker = await stuck_in_a_step(engine, runner)
        decoding = [Greedy(await engine.open(), [1, 2], 30) for _ in range(2)]
        long = Greedy(await engine.open(), prompt, 4)
        tasks = [asyncio.create_task(engine.run(work)) for work in (*decoding, long)]
        await asyncio.sleep(0)
        runner.chunks.clear()
        runner.gate.set()
        await asyncio.gather(blocker, *tasks)
    assert [long.tokens, *(work.tokens for work in decoding)] == [expected[0], expected[1], expected[1]]
    counts = [[dict(step).get(work.sequence.number, 0) for work in (*decoding, long)] for step in runner.chunks]
    steps = [step for step in counts if step[2]]
    # All of them decode in every step; the prompt gets what they leave of the budget, and its last token by itself.
    assert all(step[:2] == [1, 1] for step in steps[1:])
    assert all(sum(step) <= 24 for step in steps)
    assert sum(step[2] for step in steps) == 150 + 3
    assert len(steps) >= 150 // 24 + 3


@pytest.mark.parametrize("moment", [0, 1, 3])
async def test_a_forward_that_fails_in_the_middle_of_a_prompt_fails_it_alone(
    runner: GatedRunner, moment: int
) -> None:
    def fail(sequence: object) -> Callable[..., None]:
        seen = iter(range(100))

        def check(chunks) -> None:
            if any(chunk.sequence is sequence for chunk in chunks) and next(seen) >= moment:
                raise MemoryError("no memory for a piece like that")

        return check

    async with started(runner, step_tokens=24) as engine:
        expected = await alone(engine, [1, 2, 3], 30)
        heavy = Greedy(await engine.open(), text(150, 1), 4)
        runner.before_run = fail(heavy.sequence)
        results = await asyncio.gather(
            engine.run(heavy), alone(engine, [1, 2, 3], 30), return_exceptions=True
        )
        assert isinstance(results[0], MemoryError)
        assert results[1] == expected
        assert (heavy.sequence.length, heavy.sequence.table.blocks, heavy.tokens) == (0, [], [])
        runner.before_run = lambda chunks: None
        again = Greedy(heavy.sequence, [1, 2, 3], 30)
        await engine.run(again)
        assert again.tokens == expected


class Sampled(Greedy):
    def receive(self, logits: Tensor) -> object:
        SamplingChain(SamplingParams(), 64).log_probs(logits, History([1]))
        return super().receive(logits)


async def test_a_prompt_with_a_piece_that_is_not_finite_fails_alone_and_spoils_no_blocks(runner: GatedRunner) -> None:
    runner.loaded.model.model.embed_tokens.weight[50] = torch.nan  # reaches those who feed token 50
    prompt = text(150, 1)
    async with started(GatedRunner(), step_tokens=24) as roomy:
        expected, longer = await alone(roomy, prompt, 20), await alone(roomy, prompt * 2, 20)
    async with started(runner, step_tokens=24) as engine:
        works = [Sampled(await engine.open(), tokens, 20) for tokens in (prompt[:40] + [50] + prompt[40:], prompt)]
        results = await asyncio.gather(*map(engine.run, works), return_exceptions=True)
        assert isinstance(results[0], NotFiniteError)
        assert works[1].tokens == expected
        for work in works:
            await engine.release(work.sequence)
        assert await alone(engine, prompt * 2, 20) == longer
        await engine.run(Sampled(await engine.open(), text(24 * 16 - 5, 7), 5))  # in all blocks that there are


async def test_a_prompt_beyond_the_context_is_refused_while_another_is_run(runner: GatedRunner) -> None:
    async with started(runner, step_tokens=24) as engine:
        expected = await alone(engine, text(150, 1), 4)
        steps = len(runner.chunks)
        results = await asyncio.gather(
            alone(engine, text(150, 1)[::-1], 4),
            alone(engine, text(513, 2), 1),
            alone(engine, text(150, 1), 4),
            return_exceptions=True,
        )
        assert isinstance(results[1], ContextFullError)
        assert results[2] == expected
        assert len(results[0]) == 4
        assert max(sum(count for _, count in step) for step in runner.chunks[steps:]) <= 24
