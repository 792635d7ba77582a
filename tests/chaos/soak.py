"""Many callers for a long time and no faults: memory and descriptors of every service have to stay as they are.

Memory of the caches is taken as it is first written to: in a soak of a minute or two it still grows.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable
from contextlib import AsyncExitStack

from tests.chaos.leaks import until_idle
from tests.chaos.links import Links
from tests.chaos.outcomes import clock
from tests.chaos.processes import Resources
from tests.chaos.run import Options, Run
from tests.chaos.stage import Stage
from tests.chaos.tally import Tally

CALLERS = 64
#: Of the end's memory and descriptors over those of the middle.
MOST_GROWTH = 1.02
_SAMPLES = 400
# Of the time: samples before the middle, and before the end, of which the median is taken.
_WINDOW = 0.05


class Soak(Run):
    """The course of a soak: a run without faults."""

    def __init__(self, options: Options, say: Callable[[str], None]) -> None:
        super().__init__(options, say)
        self._samples: dict[str, list[Resources]] = {}

    async def _run(self, stack: AsyncExitStack) -> None:
        models = await self._models()
        links = await stack.enter_async_context(Links())
        stage = await self._started(stack, models, links)
        tally = self.result.tally = Tally(self.result.history, links)
        works = await self._works(stage, models)
        crowd = self._crowd(stage, works, models)
        began = self.result.history.started = clock()
        seconds = self._options.minutes * 60
        crowd.begin(max(self._options.callers, CALLERS), resuming=False)
        try:
            await self._telling(self._sample(stage, seconds), "soaking")
        except asyncio.CancelledError:
            await crowd.end(at_once=True)
            raise
        await crowd.end()
        self.result.leaks += await until_idle(stage)
        self._judge()
        failed = sum(count for verdict, count in tally.verdicts.items() if verdict != "right")
        if failed:  # no fault allows any
            self.result.problems.append(f"{failed} requests were not right")
        self._say(f"{tally.requests} requests, {tally.tokens} tokens in {clock() - began:.0f} s, {failed} not right")

    async def _sample(self, stage: Stage, seconds: float) -> None:
        until = clock() + seconds
        while clock() < until:
            await asyncio.sleep(max(seconds / _SAMPLES, 0.2))
            for name, process in stage.processes.items():
                if not process.is_running:
                    self.result.problems.append(f"{name} ended by itself; see {process.log}")
                    return
                self._samples.setdefault(name, []).append(process.resources())

    def _judge(self) -> None:
        for name, samples in self._samples.items():
            window = max(int(len(samples) * _WINDOW), 1)
            half = len(samples) // 2
            middle, end = samples[max(half - window, 0) : half] or samples[:1], samples[-window:]
            for what in ("resident", "descriptors"):
                before, after = (statistics.median(getattr(each, what) for each in part) for part in (middle, end))
                ratio = after / before
                told = f"{before / 2**20:.1f} MiB" if what == "resident" else f"{before:g}"
                self._say(f"{name}: {what} {told} in the middle, {ratio:.4f} times that at the end")
                if ratio > MOST_GROWTH:
                    self.result.leaks.append(f"{name}: {what} grew to {ratio:.4f} of that of the middle")
