"""The callers of a run: a closed loop of each kind, and those who leave, are in a hurry, or come all at once."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence

from tests.chaos.callers import Caller, GrpcCaller, call
from tests.chaos.http_caller import HttpCaller, can_http
from tests.chaos.lag import Lag
from tests.chaos.outcomes import Outcome, clock
from tests.chaos.resuming_caller import ResumingCaller, can_resume
from tests.chaos.stage import ORCHESTRATORS, Stage
from tests.chaos.works import Work

# Whoever failed does not come back at once, and not too late either.
_LEAST_PAUSE, _MOST_PAUSE = 0.1, 1.0


class Crowd:
    """Each request is told of to `ended` when it has ended.

    seconds: that a caller gives a request, least and most: long enough that a pause is no reason to fail.
    """

    def __init__(
        self,
        stage: Stage,
        works: Sequence[Work],
        source: random.Random,
        *,
        seconds: tuple[float, float],
        ended: Callable[[Outcome], None],
        model: str,
        lag: Lag,
    ) -> None:
        self._stage = stage
        self._works_of = {
            "grpc": list(works),
            "http": [work for work in works if can_http(work.request)],
            "resuming": [work for work in works if can_resume(work.request)],
        }
        self._source = source
        self._seconds = seconds
        self._ended = ended
        self._model = model
        self._lag = lag
        self._names = itertools.count(1)
        self._loops: list[asyncio.Task[None]] = []
        self._running: set[asyncio.Task[Outcome]] = set()

    def begin(self, callers: int, *, http: bool = True, resuming: bool = True) -> None:
        """So many closed loops, of every kind in turn."""
        for number in range(callers):
            self._loops.append(asyncio.create_task(self._loop(self._make(number, http=http, resuming=resuming))))

    async def end(self, *, at_once: bool = False) -> None:
        """No new requests; returns when the last has ended. at_once: those under way are given up, and not judged."""
        for task in (*self._loops, *(self._running if at_once else ())):
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._loops.clear()

    def _make(self, number: int, *, http: bool, resuming: bool) -> Caller:
        orchestrator = ORCHESTRATORS[number % len(ORCHESTRATORS)]
        kind = number // len(ORCHESTRATORS) % 4
        if http and kind == 1:
            return HttpCaller(orchestrator, self._stage.address(orchestrator, "http"), self._model)
        if resuming and kind == 2:
            return ResumingCaller([self._stage.address(name) for name in _rotated(number)])
        return GrpcCaller(orchestrator, self._stage.address(orchestrator))

    async def _loop(self, caller: Caller) -> None:
        """Until it is cancelled; the request under way is ended first."""
        running: asyncio.Task[Outcome] | None = None
        try:
            while True:
                running = asyncio.create_task(self.request(caller, self._choose(caller)))
                self._running.add(running)
                running.add_done_callback(self._running.discard)
                outcome = await asyncio.shield(running)
                if outcome.failure is not None:
                    await asyncio.sleep(min(max(outcome.failure.retry_after or 0, _LEAST_PAUSE), _MOST_PAUSE))
        finally:
            if running is not None:
                await asyncio.wait({running})
            await caller.close()

    def _choose(self, caller: Caller) -> Work:
        return self._source.choice(self._works_of[caller.name])

    async def request(
        self, caller: Caller, work: Work, *, seconds: float | None = None, leaves_after: int | None = None
    ) -> Outcome:
        """One request to its end. seconds: other than those of patient callers."""
        outcome = Outcome(
            work,
            f"chaos-{next(self._names):08x}",
            caller.name,
            caller.orchestrator,
            seconds or self._source.uniform(*self._seconds),
            patient=seconds is None,
            leaves_after=leaves_after,
        )
        await call(caller, outcome, self._lag)
        self._ended(outcome)
        return outcome

    async def some(self, count: int, *, leaves: bool = False, hurries: bool = False) -> None:
        """Callers who leave in the middle, or give a request next to no time."""

        async def one(number: int) -> None:
            caller = self._make(number, http=number % 2 == 0, resuming=False)
            after = self._source.randint(0, 20) if leaves else None
            seconds = self._source.uniform(0.02, 1.0) if hurries else None
            try:
                await self.request(caller, self._choose(caller), seconds=seconds, leaves_after=after)
            finally:
                await caller.close()

        await asyncio.gather(*(one(number) for number in range(count)))

    async def burst(self, seconds: float) -> None:
        """As many callers again as there are, for so long."""
        until = clock() + seconds

        async def one(number: int) -> None:
            caller = self._make(number, http=True, resuming=False)
            try:
                while clock() < until:
                    outcome = await self.request(caller, self._choose(caller))
                    if outcome.failure is not None:
                        await asyncio.sleep(_MOST_PAUSE)
            finally:
                await caller.close()

        await asyncio.gather(*(one(number) for number in range(len(self._loops))))


def _rotated(number: int) -> list[str]:
    """Both orchestrators, one or the other first."""
    at = number % len(ORCHESTRATORS)
    return [*ORCHESTRATORS[at:], *ORCHESTRATORS[:at]]
