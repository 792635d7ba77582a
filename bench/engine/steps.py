"""A step of the engine over a bare forward pass of transformers with the same shape, weights and inputs."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass

from bench.engine.contexts import INTO_PAGE
from bench.engine.figures import BATCH, BLOCKS, CONTEXTS, step_name
from bench.engine.models import Models
from bench.engine.peer_process import PeerProcess
from bench.engine.scale import Scale
from bench.engine.works import Repeat, Stopwatch
from bench.goals import Figure
from bench.repetition import interleave, quartiles, ratios
from tandem.inference import runner
from tandem.inference.engine import Engine

_PAGE = 16
_SHORTEST, _LONGEST = 64, 1024
#: Both sides round in bf16, each in its own way, so they differ where two tokens are nearly as likely. Below this
#: share of equal tokens they do not compute the same.
_LEAST_EQUAL = 0.7


@dataclass(frozen=True, slots=True)
class Shape:
    """Sequences of `lengths`, each with a block of `block` tokens behind it."""

    name: str
    lengths: tuple[int, ...]
    block: int


def _shapes() -> Iterator[Shape]:
    short, long = CONTEXTS
    yield from _equal(long)
    yield from (Shape(step_name(BATCH, block, None), _spread(), block) for block in BLOCKS)
    yield from _equal(short)


def _equal(context: int) -> Iterator[Shape]:
    for batch in (1, BATCH):
        for block in BLOCKS:
            yield Shape(step_name(batch, block, context), (context + INTO_PAGE,) * batch, block)


def _spread() -> tuple[int, ...]:
    first, last = _SHORTEST + INTO_PAGE, _LONGEST - INTO_PAGE
    return tuple(first + (last - first) * index // (BATCH - 1) // _PAGE * _PAGE for index in range(BATCH))


SHAPES = tuple(_shapes())


async def measure(models: Models, scale: Scale, random_source: random.Random) -> AsyncGenerator[Figure]:
    """A figure for each shape: the median over repetitions of the ratio of the median times of a step."""
    contexts = await models.contexts(scale.peer_contexts)
    engine, peer = await models.engine(), models.peer()
    for shape in SHAPES:
        blocks = [models.random_tokens(shape.block, random_source) for _ in shape.lengths]
        ours = _OurSide(engine, await contexts.sequences(shape.lengths), shape, blocks, scale.step_count)
        theirs = _TheirSide(peer, contexts.peer_texts(len(shape.lengths)), shape, blocks, scale.step_count)
        sides = {"engine": ours.measure, "transformers": theirs.measure}
        seconds = await interleave(sides, scale.step_repetitions, random_source)
        _check_equal(shape.name, ours.tokens[: contexts.different], theirs.tokens[: contexts.different])
        yield _figure(shape.name, seconds["engine"], seconds["transformers"])


class _OurSide:
    """tokens: what the last step took, a list for each sequence."""

    def __init__(
        self,
        engine: Engine,
        sequences: Sequence[runner.Sequence],
        shape: Shape,
        blocks: Sequence[list[int]],
        steps: int,
    ) -> None:
        self.tokens: list[list[int]] = []
        self._engine = engine
        self._parts = list(zip(sequences, shape.lengths, blocks, strict=True))
        self._steps = steps

    async def measure(self) -> float:
        """Median seconds of a step."""
        watch = Stopwatch(len(self._parts), self._steps)
        works = [Repeat(sequence, watch, length, block) for sequence, length, block in self._parts]
        await asyncio.gather(*(self._engine.run(work) for work in works))
        self.tokens = [work.tokens for work in works]
        return statistics.median(watch.seconds)


class _TheirSide:
    """tokens: what the last step took, a list for each sequence."""

    def __init__(
        self, peer: PeerProcess, texts: Sequence[list[int]], shape: Shape, blocks: Sequence[list[int]], steps: int
    ) -> None:
        self.tokens: list[list[int]] = []
        self._peer = peer
        self._inputs = texts, shape.lengths, blocks, steps

    async def measure(self) -> float:
        """Median seconds of a step."""
        seconds, self.tokens = await self._peer.steps(*self._inputs)
        return seconds


def _check_equal(name: str, ours: list[list[int]], theirs: list[list[int]]) -> None:
    pairs = [pair for one, other in zip(ours, theirs, strict=True) for pair in zip(one, other, strict=True)]
    share = sum(one == other for one, other in pairs) / len(pairs)
    if len(pairs) >= BATCH and share < _LEAST_EQUAL:
        raise RuntimeError(f"{name}: engine and transformers took the same token in only {share:.0%} of rows")


def _figure(name: str, ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    values = ratios(ours, theirs)
    note = f"{statistics.median(ours) * 1e3:.1f} ms against {statistics.median(theirs) * 1e3:.1f} ms"
    return Figure(name, statistics.median(values), quartiles(values), note)
