"""Time to first token: of a short prompt beside a long one, and of a prompt whose beginning is known."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from bench.engine.figures import BESIDE, BESIDE_P90, PREFIX
from bench.engine.models import Models
from bench.engine.scale import Scale
from bench.engine.works import Prompt
from bench.goals import Figure
from bench.repetition import quartiles, ratios
from tandem.inference.engine import Engine

_LONG, _SHORT = 2000, 32
_PREFIX, _OWN = 500, 16
_PATIENCE_SECONDS = 60.0


async def measure(models: Models, scale: Scale, random_source: random.Random) -> AsyncGenerator[Figure]:
    """Figures of both kinds. Every prompt is random and new, but for what is meant to be shared."""
    engine = await models.engine()
    for figure in await _beside(models, engine, scale, random_source):
        yield figure
    yield await _prefix(models, engine, scale, random_source)


async def _beside(models: Models, engine: Engine, scale: Scale, random_source: random.Random) -> list[Figure]:
    """A short prompt at a random moment of each long one's prefill, and one alone before it."""
    alone, beside, long = list[float](), list[float](), list[float]()
    # What comes first warms up, and says about how long a long prompt will take.
    expected = await _first_token(engine, models.random_tokens(_PREFIX, random_source)) * _LONG / _PREFIX
    while len(beside) < scale.long_prompts:
        alone.append(await _first_token(engine, models.random_tokens(_SHORT, random_source)))
        work = Prompt(await engine.open(), models.random_tokens(_LONG, random_source))
        prefill = asyncio.create_task(_seconds(engine, work))
        await asyncio.to_thread(work.begun.wait, _PATIENCE_SECONDS)
        await asyncio.sleep(random_source.uniform(0, expected))
        if prefill.done():  # too late: it was quicker than expected
            alone.pop()
        else:
            beside.append(await _first_token(engine, models.random_tokens(_SHORT, random_source)))
        expected = await prefill
        long.append(expected)
        await engine.release(work.sequence)
    values = ratios(beside, alone)
    note = f"{_ms(beside)} against {_ms(alone)} alone; the long one took {_ms(long)}"
    return [
        Figure(BESIDE, statistics.median(values), quartiles(values), note),
        Figure(BESIDE_P90, _percentile90(values), note=f"of {len(values)} prompts"),
    ]


async def _prefix(models: Models, engine: Engine, scale: Scale, random_source: random.Random) -> Figure:
    """The first request is over when the second one comes: only what the cache kept can help it."""
    first, second = list[float](), list[float]()
    for _ in range(scale.prefixes):
        prefix = models.random_tokens(_PREFIX, random_source)
        for seconds in (first, second):
            prompt = prefix + models.random_tokens(_OWN, random_source)
            seconds.append(await _first_token(engine, prompt))
    values = ratios(second, first)
    note = f"{_ms(second)} against {_ms(first)}; {_OWN} tokens of its own behind the prefix"
    return Figure(PREFIX, statistics.median(values), quartiles(values), note)


async def _seconds(engine: Engine, work: Prompt) -> float:
    began = time.perf_counter()
    await engine.run(work)
    return time.perf_counter() - began


async def _first_token(engine: Engine, prompt: Sequence[int]) -> float:
    """Seconds from submission to the first token, in the task that waits for it."""
    work = Prompt(await engine.open(), prompt)
    began = time.perf_counter()
    async with aclosing(engine.stream(work)) as tokens:
        await anext(tokens)
        seconds = time.perf_counter() - began
    await engine.release(work.sequence)
    return seconds


def _percentile90(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=10, method="inclusive")[-1] if len(values) > 1 else values[0]


def _ms(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.0f} ms"
