"""What a kill adds to the time between two tokens, on the streams that were open on the victim.

Measured apart from the other faults: one kill at a time, a few callers with long prompts that nobody has sent before,
and a delay on every link such as lies between machines, so that a round takes longer than this machine's scheduler may
make of it. Added is the longest gap that began before a few rounds after the kill, less the median gap of the stream.
A target's prefill of a text is measured by the same requests, on the same load: their prompts are fresh, so the time
to their first token is that of a prefill; it is taken to grow with the length.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from tandem.policies import policy_from_names
from tests.chaos.callers import GrpcCaller, call
from tests.chaos.faults import Faults
from tests.chaos.lag import Lag
from tests.chaos.link import Weather
from tests.chaos.models import Models
from tests.chaos.outcomes import Outcome, clock
from tests.chaos.schedule import KILL, Fault
from tests.chaos.stage import DRAFTS, ORCHESTRATORS, SERVICES, TARGETS, Stage, links_of
from tests.chaos.works import Answer, Work, make_request

#: One way; a round takes four of them and what the services compute.
LINK_SECONDS = 0.01
_CALLERS = 4
_PROMPT_TOKENS, _TEXT_TOKENS = 1000, 200
# A stream that has fewer says nothing of its rounds.
_LEAST_GAPS = 8
_WAIT_SECONDS = 20.0


@dataclass(slots=True)
class Kills:
    """round_seconds: the median gap of each stream measured. draft: what a draft's kill added, in rounds. target: what
    a target's kill added less the prefill of the text, in seconds."""

    round_seconds: list[float] = field(default_factory=list)
    draft: list[float] = field(default_factory=list)
    target: list[float] = field(default_factory=list)
    prefill_seconds: list[float] = field(default_factory=list)
    kills: int = 0


def gaps(outcome: Outcome) -> list[tuple[float, float]]:
    """When each pause between two arrivals began, and how long it was."""
    times = [when for when, _ in outcome.arrivals]
    return [(before, after - before) for before, after in itertools.pairwise(times)]


def added(outcome: Outcome, killed: float) -> tuple[float, float] | None:
    """What a kill added, and the median gap before it; None where the stream says nothing of it."""
    before = [length for began, length in gaps(outcome) if began + length < killed]
    if len(before) < _LEAST_GAPS:
        return None
    median = statistics.median(before)
    after = [length for began, length in gaps(outcome) if killed < began + length and began < killed + 4 * median + 0.1]
    return (max(after) - median, median) if after else None


class Measurement:
    """Callers of their own for one phase of a run. ended: told of each request once its right answer is known."""

    def __init__(
        self,
        stage: Stage,
        faults: Faults,
        models: Models,
        source: random.Random,
        *,
        ended: Callable[[Outcome], None],
        lag: Lag,
    ) -> None:
        self.kills = Kills()
        self._stage = stage
        self._faults = faults
        self._models = models
        self._source = source
        self._ended = ended
        self._lag = lag
        self._open: set[Outcome] = set()
        self._done: list[Outcome] = []
        self._running: set[asyncio.Task[None]] = set()
        self._names = itertools.count(0xF0000000)
        self._callers = [
            GrpcCaller(name, stage.address(name))
            for name in itertools.islice(itertools.cycle(ORCHESTRATORS), _CALLERS)
        ]

    async def run(self, seconds: float) -> None:
        """Kills a draft and a target by turns until the time is up; at least one of each."""
        await self._weather(Weather(delay=LINK_SECONDS))
        loops = [asyncio.create_task(self._loop(caller)) for caller in self._callers]
        until, victims = clock() + seconds, itertools.cycle((DRAFTS, TARGETS))
        try:
            for number, services in enumerate(victims):
                if number >= 2 and number % 2 == 0 and clock() >= until:
                    break
                await self._kill_one(services)
                await self._stage.until_whole(_WAIT_SECONDS)
        except asyncio.CancelledError:
            for task in self._running:
                task.cancel()
            raise
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self._weather(Weather())
        await self._judge()
        for caller in self._callers:
            await caller.close()

    async def _weather(self, weather: Weather) -> None:
        for service in SERVICES:
            for name in links_of(service):
                await self._stage.links.change(name, weather)

    async def _kill_one(self, services: tuple[str, ...]) -> None:
        """The first victim on which a stream is in the middle."""
        kind, victim = services[0].rstrip("0123456789"), None
        deadline = clock() + _WAIT_SECONDS
        while victim is None and clock() < deadline:
            await asyncio.sleep(0.05)
            for outcome in self._open:
                if _LEAST_GAPS < len(outcome.arrivals) < _TEXT_TOKENS / 6:
                    victim = self._stage.links.place_of(outcome.name, kind, clock())
        if victim is None:
            self._faults.problems.append(f"no stream was in the middle at a {kind} for {_WAIT_SECONDS:g} s")
            return
        fault = Fault(0.0, KILL, (victim,), 2.0)
        streams = [each for each in self._open if self._stage.links.place_of(each.name, kind, clock()) == victim]
        killed = clock()
        await self._faults.hit(fault)
        self.kills.kills += 1
        async with asyncio.timeout(120):
            while any(each.ended is None for each in streams):
                await asyncio.sleep(0.05)
        for outcome in streams:
            self._measure(kind, outcome, killed)

    def _measure(self, kind: str, outcome: Outcome, killed: float) -> None:
        if outcome.failure is not None or (found := added(outcome, killed)) is None:
            return
        more, median = found
        self.kills.round_seconds.append(median)
        if kind == "draft":
            self.kills.draft.append(more / median)
            return
        held = sum(count for when, count in outcome.arrivals if when < killed) + _PROMPT_TOKENS
        prefill = self._first_token_seconds() * held / _PROMPT_TOKENS
        self.kills.prefill_seconds.append(prefill)
        self.kills.target.append(more - prefill)

    def _first_token_seconds(self) -> float:
        """Median of those that were not disturbed: they were the most by far."""
        firsts = [each.arrivals[0][0] - each.began for each in (*self._done, *self._open) if each.arrivals]
        return statistics.median(firsts)

    async def _loop(self, caller: GrpcCaller) -> None:
        running: asyncio.Task[None] | None = None
        try:
            while True:
                running = asyncio.create_task(self._request(caller))
                self._running.add(running)
                running.add_done_callback(self._running.discard)
                await asyncio.shield(running)
        finally:
            if running is not None:
                await asyncio.wait({running})

    async def _request(self, caller: GrpcCaller) -> None:
        prompt = self._models.prompt(self._source, _PROMPT_TOKENS if self._models.is_tiny else 200)
        sampling = {"temperature": 1.0, "seed": self._source.getrandbits(32)}
        policy = policy_from_names("fixed", "coupled", max_tokens=4)
        tokens = _TEXT_TOKENS if self._models.is_tiny else 60
        request = make_request(
            self._models, self._source, policy, prompt=prompt, sampling=sampling, max_tokens=tokens
        )
        work = Work("kill measured", request)
        outcome = Outcome(work, f"chaos-{next(self._names):08x}", caller.name, caller.orchestrator, 60.0)
        self._open.add(outcome)
        await call(caller, outcome, self._lag)
        self._open.discard(outcome)
        self._done.append(outcome)
        if outcome.failure is not None:
            await asyncio.sleep(0.5)

    async def _judge(self) -> None:
        """The right answers are known only now: nobody has asked for these before."""
        free = asyncio.Semaphore(_CALLERS)

        async def one(outcome: Outcome) -> None:
            async with free:
                caller = self._callers[0]
                again = Outcome(outcome.work, outcome.name, caller.name, caller.orchestrator, 120.0)
                await caller.stream(again, outcome.work.alone(f"chaos-{next(self._names):08x}"))
                if again.failure is not None:
                    self._faults.problems.append(f"the answer to compare with failed: {again.failure}")
                    return
                received = again.choices[0]
                outcome.work = outcome.work.answered([Answer(received.tokens, received.text)])
                self._ended(outcome)

        await asyncio.gather(*(one(outcome) for outcome in self._done))
