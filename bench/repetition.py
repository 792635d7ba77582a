"""Repeated measurement of sides that are compared: in turn, in an order drawn anew each time.

What changes on a machine while it is measured then meets all sides alike, and ratios are taken within a repetition.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence

# In which threads of the side before, which spin for some milliseconds, go to sleep.
_PAUSE_SECONDS = 0.02


async def interleave(
    sides: Mapping[str, Callable[[], Awaitable[float]]], repetitions: int, order: random.Random
) -> dict[str, list[float]]:
    """Values of each side by its name, one for each repetition. Raises what a side raises."""
    values: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repetitions):
        for name in order.sample(list(sides), k=len(sides)):
            await asyncio.sleep(_PAUSE_SECONDS)
            values[name].append(await sides[name]())
    return values


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Of each repetition."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """What the middle half of `values` lies between; needs one value."""
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third
