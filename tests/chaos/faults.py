"""Carries out the schedule: hits processes, links and callers, and makes them whole again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterable

from tests.chaos.crowd import Crowd
from tests.chaos.history import Event, History
from tests.chaos.link import Weather
from tests.chaos.outcomes import clock
from tests.chaos.schedule import (
    BLACKHOLE,
    BURST,
    CUT,
    DELAY,
    DRAIN,
    HALF_CLOSE,
    HURRY,
    KILL,
    LEAVE,
    REFUSE,
    ROLLING,
    STALL,
    STOP,
    THROTTLE,
    Fault,
)
from tests.chaos.stage import GRACE_SECONDS, ORCHESTRATORS, TARGETS, Stage, links_of

# After the grace a service still closes what it has.
_DRAIN_SECONDS = GRACE_SECONDS + 10.0
# Until a rolling restart goes on with the next service.
_PATIENCE_SECONDS = 60.0


class Faults:
    """problems: what services did that no fault explains, in words."""

    def __init__(self, stage: Stage, crowd: Crowd, history: History) -> None:
        self.problems: list[str] = []
        self._stage = stage
        self._crowd = crowd
        self._history = history
        self._busy: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._kinds: dict[str, Callable[[Fault, Event], Awaitable[None]]] = {
            KILL: self._kill, STOP: self._stop, DRAIN: self._drain, ROLLING: self._drain,
            CUT: self._cut, HALF_CLOSE: self._half_close, LEAVE: self._leave, HURRY: self._hurry, BURST: self._burst,
            **dict.fromkeys((DELAY, THROTTLE, STALL, BLACKHOLE, REFUSE), self._weather),
        }  # fmt: skip

    async def run(self, faults: Iterable[Fault]) -> None:
        """Until the last of them has begun; `heal` waits for their ends."""
        began = clock()
        for fault in faults:
            await asyncio.sleep(max(began + fault.at - clock(), 0))
            if fault.kind == ROLLING:
                # One after another, each when all is whole again, and nothing else meanwhile.
                await self.heal()
                await self._stage.until_whole(_PATIENCE_SECONDS)
                began = max(began, clock() - fault.at)  # what it took longer, the others come later
                await self.hit(fault)
            elif self._may(fault):
                task = asyncio.create_task(self.hit(fault))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                self._history.skipped.append(fault)

    async def heal(self) -> None:
        """Returns once all that was hit is whole again."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def end(self) -> None:
        """Whatever is under way: nothing more is hit or repaired."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _may(self, fault: Fault) -> bool:
        """Not what is hit already, and in gentle times not what would leave no target, or no orchestrator."""
        parts = self._parts(fault)
        if parts & self._busy:
            return False
        if fault.is_harsh:
            return True
        for services in (TARGETS, ORCHESTRATORS):
            hit = {name for name in services if {name, *links_of(name)} & parts}
            down = {name for name in services if {name, *links_of(name)} & self._busy}
            if hit and len(hit | down) == len(services):
                return False
        return True

    def _parts(self, fault: Fault) -> set[str]:
        return set(fault.victims)

    async def hit(self, fault: Fault) -> None:
        """From the blow to the end of the repair. What goes wrong with that is a problem of the run."""
        parts = self._parts(fault)
        self._busy |= parts
        event = self._history.begin(fault)
        try:
            await self._kinds[fault.kind](fault, event)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.problems.append(f"{fault}: {type(error).__name__}: {error}")
        finally:
            self._busy -= parts
            if event.ended is None:
                event.end()

    # Processes.

    async def _kill(self, fault: Fault, event: Event) -> None:
        for name in fault.victims:
            self.check_alive(name)
            event.began = clock()
            await self._stage.processes[name].kill()
            await self._stage.down(name)
        await self._come_back(fault)

    async def _stop(self, fault: Fault, event: Event) -> None:
        for name in fault.victims:
            self._stage.processes[name].stop()
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            for name in fault.victims:
                self._stage.processes[name].go_on()

    async def _drain(self, fault: Fault, event: Event) -> None:
        for name in fault.victims:
            process = self._stage.processes[name]
            self.check_alive(name)
            process.may_end = True
            process.signal(signal.SIGTERM)
            code = await process.ended(_DRAIN_SECONDS)
            if code is None:
                self.problems.append(f"{name} was still there {_DRAIN_SECONDS:g} s after SIGTERM; see {process.log}")
                await process.kill()
            elif code != 0:
                self.problems.append(f"{name} ended with {code} after SIGTERM; see {process.log}")
            await self._stage.down(name)
        await self._come_back(fault)

    async def _come_back(self, fault: Fault) -> None:
        await asyncio.sleep(fault.seconds)
        for name in fault.victims:
            await self._stage.up(name)

    def check_alive(self, name: str) -> None:
        """Notes it where a process has ended that nobody has ended."""
        process = self._stage.processes[name]
        if not process.is_running and not process.may_end:
            self.problems.append(f"{name} ended by itself; see {process.log}")
            process.may_end = True

    # Links.

    async def _weather(self, fault: Fault, event: Event) -> None:
        weather = {
            DELAY: Weather(delay=fault.amount),
            THROTTLE: Weather(rate=fault.amount),
            STALL: Weather(stalls=True),
            BLACKHOLE: Weather(drops=True),
            REFUSE: Weather(refuses=True),
        }[fault.kind]
        links = self._stage.links
        for name in fault.victims:
            await links.change(name, weather)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            for name in fault.victims:
                await links.change(name, Weather())

    async def _cut(self, fault: Fault, event: Event) -> None:
        for name in fault.victims:
            await self._stage.links.cut(name)

    async def _half_close(self, fault: Fault, event: Event) -> None:
        for name in fault.victims:
            await self._stage.links.half_close(name)

    # Callers.

    async def _leave(self, fault: Fault, event: Event) -> None:
        await self._crowd.some(int(fault.amount), leaves=True)

    async def _hurry(self, fault: Fault, event: Event) -> None:
        await self._crowd.some(int(fault.amount), hurries=True)

    async def _burst(self, fault: Fault, event: Event) -> None:
        await self._crowd.burst(fault.seconds)
