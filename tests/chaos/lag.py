"""By how much this process is behind."""

from __future__ import annotations

import asyncio

from tests.chaos.outcomes import clock

_LAG_SECONDS = 0.1


class Lag:
    """A deadline that is noticed late by this process is not the services' fault."""

    def __init__(self) -> None:
        self._most: list[tuple[float, float]] = []
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            began = clock()
            await asyncio.sleep(_LAG_SECONDS)
            if (late := clock() - began - _LAG_SECONDS) > _LAG_SECONDS:
                self._most.append((clock(), late))

    def since(self, began: float) -> float:
        return max((late for when, late in self._most if when > began), default=0.0)

    def end(self) -> None:
        self._task.cancel()
