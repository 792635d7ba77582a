"""What 4-bit weights gain, and whether they say the same."""

from __future__ import annotations

import random
import statistics
from collections.abc import AsyncGenerator, Sequence

from bench.engine.contexts import Contexts
from bench.engine.figures import INT4_AGREEMENT, INT4_DECODE, INT4_EQUAL_TEXTS
from bench.engine.models import Models
from bench.engine.scale import Scale
from bench.engine.throughput import CONTEXT, engine_side, peer_side, speed_figure
from bench.engine.works import Forced, Prompt
from bench.goals import Figure
from bench.repetition import interleave, quartiles
from tandem.inference.engine import Engine


async def measure(models: Models, scale: Scale, random_source: random.Random) -> AsyncGenerator[Figure]:
    """Speed of one stream over transformers in bf16, and agreement with transformers in fp32."""
    engine = await models.engine("int4")
    yield await _speed(models, engine, scale, random_source)
    for figure in await _agreement(models, engine, scale):
        yield figure


async def _speed(models: Models, engine: Engine, scale: Scale, random_source: random.Random) -> Figure:
    tokens = scale.decode_tokens
    contexts = Contexts(engine, [models.random_tokens(CONTEXT, random_source)], different=1)
    ours = engine_side(engine, await contexts.sequences([CONTEXT]), tokens)
    theirs = peer_side(models.peer(), contexts.peer_texts(1), tokens)
    speeds = await interleave({"engine": ours, "transformers": theirs}, scale.decode_repetitions, random_source)
    return speed_figure(INT4_DECODE, speeds["engine"], speeds["transformers"])


async def _agreement(models: Models, engine: Engine, scale: Scale) -> list[Figure]:
    """At each position of the greedy text of transformers in fp32: does the engine take the same token next?

    Forced to that text, so that one difference counts once; free-running, so that texts are compared as a reader
    would. Both decode token by token, with the kernels of decoding.
    """
    real, reference = models.prompts(scale.agreement_prompts), models.peer("float32")
    shares: list[float] = []
    equal = total = same_texts = 0
    for prompt in real.prompts:
        text = await reference.greedy(prompt, scale.agreement_tokens, real.ends)
        forced = Forced(await engine.open(), prompt, text)
        free = Prompt(await engine.open(), prompt, len(text))
        for work in (forced, free):
            await engine.run(work)
            await engine.release(work.sequence)
        matches = _matches(forced.tokens, text)
        shares.append(matches / len(text))
        equal, total = equal + matches, total + len(text)
        same_texts += free.tokens == text
    count = len(real.prompts)
    return [
        Figure(
            INT4_AGREEMENT, equal / total, quartiles(shares),
            f"{equal} of {total} tokens of {count} prompts, the least equal one {min(shares):.2f},"
            f" the median {statistics.median(shares):.2f}",
        ),
        Figure(INT4_EQUAL_TEXTS, same_texts / count, note=f"{same_texts} of {count} texts"),
    ]  # fmt: skip


def _matches(tokens: Sequence[int], text: Sequence[int]) -> int:
    return sum(one == other for one, other in zip(tokens, text, strict=True))
