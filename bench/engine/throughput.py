"""Tokens per second of sessions that decode together, over those of one alone."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import torch

from bench.engine.figures import BATCH, THROUGHPUT, THROUGHPUT_TRANSFORMERS
from bench.engine.models import Models
from bench.engine.peer import PeerBatch
from bench.engine.scale import Scale
from bench.engine.works import Decode, Stopwatch
from bench.goals import Figure
from bench.repetition import interleave, quartiles, ratios
from tandem.inference import runner
from tandem.inference.engine import Engine

CONTEXT = 256


async def measure(models: Models, scale: Scale, random_source: random.Random) -> AsyncGenerator[Figure]:
    """The engine's figure, and plain transformers' own beside it; medians over repetitions."""
    engine, tokens = models.engine(), scale.decode_tokens
    contexts, lengths = models.contexts(scale.peer_contexts), [CONTEXT] * BATCH
    sequences = await contexts.sequences(lengths)
    one, all_of_them = contexts.batch(lengths[:1], room=tokens + 1), contexts.batch(lengths, room=tokens + 1)
    speeds = await interleave(
        {
            "engine, 1": engine_side(engine, sequences[:1], tokens),
            "engine, 8": engine_side(engine, sequences, tokens),
            "transformers, 1": peer_side(one, 1, tokens),
            "transformers, 8": peer_side(all_of_them, BATCH, tokens),
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


def peer_side(batch: PeerBatch, sessions: int, tokens: int) -> Callable[[], Awaitable[float]]:
    """As `engine_side`."""

    async def speed() -> float:
        batch.rewind()
        feed = batch.step(torch.arange(sessions)[:, None])  # nor does the engine's first one count
        began = time.perf_counter()
        for _ in range(tokens):
            feed = batch.step(feed)
        return sessions * tokens / (time.perf_counter() - began)

    return speed


def speed_figure(name: str, ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    values = ratios(ours, theirs)
    note = f"{statistics.median(ours):.1f} tokens/s against {statistics.median(theirs):.1f}"
    return Figure(name, statistics.median(values), quartiles(values), note)
