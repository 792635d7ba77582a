"""An open loop: requests that arrive by chance, whatever became of those before."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

from bench.serve.caller import Caller, clock
from bench.serve.loops import Loaded, Meter, Requesting, Requests
from bench.serve.records import NOT_SENT, Record, Window

#: Before the window, as a share of it.
WARM_UP = 0.25


def poisson(rate: float, source: random.Random) -> Iterator[float]:
    """Seconds at which requests arrive, `rate` of them per second in the mean, without end."""
    moment = 0.0
    while True:
        moment += source.expovariate(rate)
        yield moment


async def open_loop(
    caller: Caller, requests: Requests, rate: float, source: random.Random, *, seconds: float, most_in_flight: int
) -> Loaded:
    """Load by `rate` requests per second.

    Warming up lasts a quarter of `seconds`, the window that follows `seconds`. Counted are requests that were due
    inside; each is followed to its end while more keep arriving, so that the last ones meet the load that the first
    ones met. Times count from the moment at which a request was due (no coordinated omission); throughput is of all
    tokens that arrived inside. What is under way in the end is cancelled.

    A request that is due while `most_in_flight` are under way is not sent, and counts as failed; so does one that the
    service refuses. None is sent again. Raises TandemError as `Caller.call` does.
    """
    loop = _OpenLoop(caller, requests, most_in_flight)
    try:
        return await loop.run(poisson(rate, source), seconds)
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


class _OpenLoop(Requesting):
    def __init__(self, caller: Caller, requests: Requests, most_in_flight: int) -> None:
        super().__init__(caller, requests)
        self._most_in_flight = most_in_flight
        self._in_flight: set[asyncio.Task[object]] = set()
        self._next_due = 0.0

    async def run(self, moments: Iterator[float], seconds: float) -> Loaded:
        start = clock()
        window = Window(start + WARM_UP * seconds, start + (1 + WARM_UP) * seconds)
        async with asyncio.TaskGroup() as group:
            arriving = group.create_task(self._arrive(group, (start + moment for moment in moments)))
            await asyncio.sleep(window.began - clock())
            meter = Meter()
            await asyncio.sleep(window.ended - clock())
            cpu_seconds = meter.seconds()
            await self.until(lambda: self._next_due >= window.ended and self._all_ended(window))
            for task in (arriving, *self._in_flight):
                task.cancel()
        return Loaded(window, self.records, window.due(self.records), cpu_seconds)

    def _all_ended(self, window: Window) -> bool:
        return all(record.ended is not None for record in window.due(self.records))

    async def _arrive(self, group: asyncio.TaskGroup, moments: Iterator[float]) -> None:
        for number, self._next_due in enumerate(moments):
            await asyncio.sleep(self._next_due - clock())
            record = Record(self._next_due)
            self.records.append(record)
            if len(self._in_flight) >= self._most_in_flight:
                record.ended, record.failure = clock(), NOT_SENT
            else:
                task = group.create_task(self.request(number, record))
                self._in_flight.add(task)
                task.add_done_callback(self._in_flight.discard)
            await self.tell()
