"""All groups of figures of the engine, one after the other."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from functools import partial

from bench.engine import memory, precision, prefill, soak, steps, throughput
from bench.engine.figures import FIGURES, Group
from bench.engine.models import Models
from bench.engine.scale import Scale
from bench.goals import Figure
from tandem.models import ModelError

Measure = Callable[[Models, Scale, random.Random], AsyncGenerator[Figure]]

_log = logging.getLogger(__name__)


def measures(soak_minutes: float | None) -> dict[Group, Measure]:
    """What yields the figures of each group. soak_minutes: None skips the soak."""
    return {
        Group.STEPS: steps.measure,
        Group.THROUGHPUT: throughput.measure,
        Group.PRECISION: precision.measure,
        Group.PREFILL: prefill.measure,
        Group.MEMORY: memory.measure,
        Group.SOAK: partial(soak.measure, soak_minutes),
    }


async def run(
    models: Models, chosen: Mapping[Group, Measure], scale: Scale, seed: int, say: Callable[[Figure], None]
) -> list[Figure]:
    """The figures of the groups, each of which is also told as soon as it is there.

    Where a group fails, the figures that it still owed have failed; the others go on. Closes the models. Raises
    ModelError for a model that cannot be had.
    """
    figures: list[Figure] = []
    try:
        for group, measure in chosen.items():
            owed = list(FIGURES[group])
            # Of its own, so that no group begins with what another has left in the cache.
            random_source = random.Random(f"{seed} {group}")
            try:
                async with aclosing(measure(models, scale, random_source)) as measured:
                    async for figure in measured:
                        owed.remove(figure.name)
                        figures.append(figure)
                        say(figure)
            except ModelError:
                raise
            except Exception as error:
                _log.warning("not measured: %s", ", ".join(owed), exc_info=error)
                reason = " ".join(f"not measured: {type(error).__name__}: {error}".split())
                figures += [Figure.failed(name, reason) for name in owed]
    finally:
        await models.close()
    return figures
