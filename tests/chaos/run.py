"""The course of a run: start, take the right answers, measure kills, chaos, let the dust settle, look for leaks."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.asking import answered, ask_each
from tests.chaos.crowd import Crowd
from tests.chaos.faults import Faults
from tests.chaos.forks import Starter
from tests.chaos.history import SETTLE_SECONDS, History
from tests.chaos.lag import Lag
from tests.chaos.latency import Kills, Measurement
from tests.chaos.leaks import Baseline, until_idle
from tests.chaos.links import Links
from tests.chaos.logs import found_in
from tests.chaos.models import Models, embedded_models, tiny_models_in
from tests.chaos.outcomes import clock
from tests.chaos.processes import ServiceFailed
from tests.chaos.schedule import schedule
from tests.chaos.stage import GRACE_SECONDS, Stage
from tests.chaos.tally import Tally
from tests.chaos.works import Work, make_works

# Of the time, for the kills that are measured, in runs of at least so many minutes.
_MEASURED_SHARE, _LEAST_MEASURED_MINUTES = 0.15, 3.0
_WHOLE_SECONDS = 60.0
_PROGRESS_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Options:
    minutes: float
    seed: int
    callers: int
    embedded: bool = False
    lenient: bool = False

    @property
    def measures_kills(self) -> bool:
        """A shorter run has no time for it."""
        return self.minutes >= _LEAST_MEASURED_MINUTES

    @property
    def variants(self) -> int:
        """Of each kind of request: to learn the right answers takes time, too."""
        return 2 if self.minutes < _LEAST_MEASURED_MINUTES else 4


@dataclass(slots=True)
class Result:
    """leaks, problems, logged: what must be empty, in words. phase: how far it came."""

    options: Options
    folder: Path
    history: History = field(default_factory=History)
    kills: Kills = field(default_factory=Kills)
    tally: Tally | None = None
    leaks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def is_good(self) -> bool:
        bad = self.tally.bad if self.tally is not None else []
        return not (bad or self.leaks or self.problems or self.logged)


class Run:
    """say: prints a line of progress."""

    def __init__(self, options: Options, say: Callable[[str], None]) -> None:
        self.result = Result(options, Path(tempfile.mkdtemp(prefix="tandem-chaos-")))
        self._options = options
        self._say = say
        self._source = random.Random(options.seed)
        self._began = clock()

    async def run(self) -> Result:
        """Raises ServiceFailed where the services do not even start. A Ctrl-C ends it with what there is."""
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        self.result.logs.mkdir()
        self._lag = Lag()
        async with AsyncExitStack() as stack:
            try:
                await self._run(stack)
            except asyncio.CancelledError:
                task.uncancel()
                self.result.interrupted = True
                self._say("interrupted: ending the services")
        self._lag.end()
        self.result.logged += found_in(self.result.logs)
        self.result.seconds = clock() - self._began
        return self.result

    async def _run(self, stack: AsyncExitStack) -> None:
        result = self.result
        models = await self._models()
        links = await stack.enter_async_context(Links())
        stage = await self._started(stack, models, links)
        tally = result.tally = Tally(result.history, links, self._options.lenient)
        works = await self._works(stage, models)
        self._say("warming up")
        await ask_each(stage, works, tally, self._lag)
        result.leaks += [f"after warming up: {held}" for held in await until_idle(stage)]
        baseline = Baseline(stage)
        crowd = self._crowd(stage, works, models)
        faults = Faults(stage, crowd, result.history)
        stack.push_async_callback(faults.end)
        result.problems = faults.problems
        result.history.started = clock()
        self._say(f"right answers to {len(works)} requests are known; services are up after {self._past():.0f} s")
        seconds = self._options.minutes * 60
        if self._options.measures_kills:
            measurement = Measurement(stage, faults, models, self._source, ended=tally.add, lag=self._lag)
            result.kills = measurement.kills
            await self._telling(measurement.run(seconds * _MEASURED_SHARE), "measuring kills")
        left = max(seconds - (clock() - result.history.started), seconds / 2)
        crowd.begin(self._options.callers)
        try:
            await self._telling(faults.run(schedule(self._options.seed, left)), "chaos")
            await faults.heal()
            await asyncio.sleep(SETTLE_SECONDS)
        except asyncio.CancelledError:
            await crowd.end(at_once=True)
            raise
        await crowd.end()
        await self._after(stage, works, baseline, faults)

    async def _started(self, stack: AsyncExitStack, models: Models, links: Links) -> Stage:
        """All services, ended with `stack`."""
        self._say("starting two drafts, two targets and two orchestrators")
        logs, starters = self.result.logs, {}
        for kind in ("models", "orchestrator"):
            starters[kind] = await stack.enter_async_context(Starter(kind, logs / f"{kind}.log"))
        stage = Stage(models, links, starters, logs)
        stack.push_async_callback(stage.close)
        await stage.start()
        if missing := await stage.until_whole(_WHOLE_SECONDS):
            raise ServiceFailed(missing)
        return stage

    async def _works(self, stage: Stage, models: Models) -> list[Work]:
        works = make_works(models, self._source, self._options.variants)
        self._say(f"taking the right answers to {len(works)} requests from the target alone")
        return await answered(stage, works)

    async def _after(self, stage: Stage, works: Sequence[Work], baseline: Baseline, faults: Faults) -> None:
        result = self.result
        self._say("all is healed: letting the dust settle")
        if missing := await stage.until_whole(_WHOLE_SECONDS):
            result.problems.append(f"a minute after all was healed {missing}")
        result.leaks += await until_idle(stage)
        assert result.tally is not None
        self._say("a last round without faults")
        await ask_each(stage, works, result.tally, self._lag)
        result.leaks += await until_idle(stage)
        result.leaks += await baseline.until_back(40)
        for name, process in stage.processes.items():
            faults.check_alive(name)
            process.may_end = True
            process.signal(signal.SIGTERM)
        for name, process in stage.processes.items():
            if (code := await process.ended(GRACE_SECONDS + 15)) != 0:
                result.problems.append(f"{name} ended with {code} at the end; see {process.log}")

    async def _models(self) -> Models:
        if self._options.embedded:
            return embedded_models()
        folder = self.result.folder / "models"
        # In a process of its own: this one shall stay small and quick.
        command = [sys.executable, "-m", "tests.chaos.models", str(folder)]
        made = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, process_group=0)
        try:
            if await made.wait():
                raise ServiceFailed("the tiny models could not be made")
        except asyncio.CancelledError:
            made.kill()
            await made.wait()
            raise
        return tiny_models_in(folder)

    def _crowd(self, stage: Stage, works: Sequence[Work], models: Models) -> Crowd:
        assert self.result.tally is not None
        seconds = (60.0, 90.0) if self._options.embedded else (40.0, 60.0)
        name = Path(models.target).name if models.is_tiny else models.target
        ended = self.result.tally.add
        return Crowd(stage, works, self._source, seconds=seconds, ended=ended, model=name, lag=self._lag)

    async def _telling(self, work: Awaitable[None], name: str) -> None:
        """Says how it stands every few seconds."""
        task = asyncio.ensure_future(work)
        try:
            while True:
                done, _ = await asyncio.wait({task}, timeout=_PROGRESS_SECONDS)
                if done:
                    return task.result()
                self._say(f"{name}: {self._standing()}")
        finally:
            task.cancel()

    def _standing(self) -> str:
        result, tally = self.result, self.result.tally
        assert tally is not None
        past = clock() - result.history.started
        return (
            f"{past:.0f} s, {len(result.history.events)} faults, {tally.requests} requests,"
            f" {len(tally.bad)} bad, {len(result.problems)} problems"
        )

    def _past(self) -> float:
        return clock() - self._began


