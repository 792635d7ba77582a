"""Tokens per second of sessions that decode together, over those of one alone."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from bench.engine.figures import BATCH, THROUGHPUT, THROUGHPUT_TRANSFORMERS
from bench.engine.models import Models
from bench.engine.peer_process import PeerProcess
from bench.engine.scale import Scale
from bench.engine.works import Decode, Stopwatch
from bench.goals import Figure
from bench.repetition import interleave, quartiles, ratios
from tandem.inference import runner
from tandem.inference.engine import Engine

CONTEXT = 256


async def measure(models: Models, scale: Scale, random_source: random.Random) -> AsyncGenerator[Figure]:
    """The engine's figure, and plain transformers' own beside it; medians over repetitions."""
    tokens, contexts = scale.decode_tokens, await models.contexts(scale.peer_contexts)
    engine, peer = await models.engine(), models.peer()
    sequences, texts = await contexts.sequences([CONTEXT] * BATCH), contexts.peer_texts(BATCH)
    speeds = await interleave(
        {
            "engine, 1": engine_side(engine, sequences[:1], tokens),
            "engine, 8": engine_side(engine, sequences, tokens),
            "transformers, 1": peer_side(peer, texts[:1], tokens),
            "transformers, 8": peer_side(peer, texts, tokens),
        },
        scale.decode_repetitions,
        random_source,
    )
    yield speed_figure(THROUGHPUT, speeds["engine, 8"], speeds["engine, 1"])
    yield speed_figure(THROUGHPUT_TRANSFORMERS, speeds["transformers, 8"], speeds["transformers, 1"])


def engine_side(engine: Engine, sequences: Sequence[runner.Sequence], tokens: int) -> Callable[[], Awaitable[float]]:
    """Measures tokens per second of `sequences` together, each decoding `tokens` behind CONTEXT."""

    async def speed() -> float:
        watch = Stopwatch(len(sequences), tokens)
        works = [Decode(sequence, watch, CONTEXT, first=index) for index, sequence in enumerate(sequences)]
        await asyncio.gather(*(engine.run(work) for work in works))
        return len(sequences) * tokens / sum(watch.seconds)

    return speed


def peer_side(peer: PeerProcess, texts: Sequence[list[int]], tokens: int) -> Callable[[], Awaitable[float]]:
    """As `engine_side`."""
    return lambda: peer.decode(texts, [CONTEXT] * len(texts), tokens)


def speed_figure(name: str, ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    values = ratios(ours, theirs)
    note = f"{statistics.median(ours):.1f} tokens/s against {statistics.median(theirs):.1f}"
    return Figure(name, statistics.median(values), quartiles(values), note)
