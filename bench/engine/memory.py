"""What the key-value cache holds after many sessions that were cut off, against before them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from dataclasses import dataclass

from bench.engine.figures import CACHE_LEFT
from bench.engine.models import Models
from bench.engine.scale import Scale
from bench.engine.works import Prompt, opened
from bench.goals import Figure
from tandem.inference.engine import Engine

_AT_ONCE = 8
_LONGEST_PROMPT, _MOST_TOKENS = 300, 8
_BYSTANDER = 100
_CANCEL_WITHIN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Held:
    """bytes: of open sequences. blocks: of the cache that no open sequence holds, whether or not they are kept for
    another prompt with the same beginning."""

    bytes: int
    blocks: int

    def difference(self, other: Held) -> int:
        """Nothing but 0 is without a leak."""
        return abs(self.bytes - other.bytes) + abs(self.blocks - other.blocks)


async def measure(models: Models, scale: Scale, random_source: random.Random) -> AsyncGenerator[Figure]:
    """The difference. A bystander's session stays open all the while, so that not all figures are 0 anyway."""
    engine = await models.engine()
    bystander = await opened(engine, models.random_tokens(_BYSTANDER, random_source))
    before = await _held(engine)
    sessions = _sessions(models, engine, scale.cancelled_sessions, random_source)
    cancelled = sum(await asyncio.gather(*(_one_by_one(sessions) for _ in range(_AT_ONCE))))
    after = await _held(engine)
    await engine.release(bystander)
    note = (
        f"{after.bytes} bytes held and {after.blocks} blocks free or cached, before {before.bytes} and {before.blocks};"
        f" {cancelled} of {scale.cancelled_sessions} sessions were still at work when cancelled"
    )
    yield Figure(CACHE_LEFT, float(after.difference(before)), note=note)


def _sessions(
    models: Models, engine: Engine, count: int, random_source: random.Random
) -> Iterator[Coroutine[None, None, bool]]:
    prefix = models.random_tokens(_LONGEST_PROMPT, random_source)
    for _ in range(count):
        length = random_source.randint(1, _LONGEST_PROMPT)
        # Some begin alike, so that what they share is given back by each of them.
        shared = random_source.choice((0, length // 2))
        prompt = prefix[:shared] + models.random_tokens(length - shared, random_source)
        yield _session(engine, prompt, random_source.uniform(0, _CANCEL_WITHIN_SECONDS))


async def _one_by_one(sessions: Iterator[Coroutine[None, None, bool]]) -> int:
    """How many of the sessions that were left when their turn came were still at work when they were cancelled."""
    return sum([await session for session in sessions])


async def _session(engine: Engine, prompt: Sequence[int], seconds: float) -> bool:
    """Opened, cancelled after `seconds`, closed; whether there was anything left to cancel."""
    sequence = await engine.open()
    task = asyncio.create_task(engine.run(Prompt(sequence, prompt, _MOST_TOKENS)))
    done, _ = await asyncio.wait([task], timeout=seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    if done:
        task.result()  # raises what the work failed with
    await engine.release(sequence)
    return not done


async def _held(engine: Engine) -> Held:
    """After all that was released has been closed, which the engine does in order."""
    await engine.release(await opened(engine, [0]))
    probe = await opened(engine, [0])
    held = Held(engine.load().cache_bytes, engine._runner.cache.pool.available)
    await engine.release(probe)
    return held
