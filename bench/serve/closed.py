"""A closed loop: callers that each send their next request when their last one has ended."""

from __future__ import annotations

import asyncio
import itertools

from bench.serve.caller import Caller, clock
from bench.serve.loops import Loaded, Meter, Requesting, Requests
from bench.serve.records import Record, Window

# After a refusal that does not say when to come back: a caller that came back at once would be a load of its own.
_PAUSE_SECONDS = 1.0


async def closed_loop(
    caller: Caller, requests: Requests, clients: int, *, seconds: float, least_requests: int
) -> Loaded:
    """Load by `clients` callers.

    Warming up lasts until each of them has ended a request, well or not. The window that follows lasts for `seconds`,
    and on until a request ends and each caller has ended `least_requests` that began inside: it begins and ends with
    an end, so that of one caller it holds whole requests and nothing else. Counted are requests that began and ended
    inside; throughput is of all tokens that arrived inside. What is under way at its end is cancelled.

    Caller c's request number n is number c + n * clients of `requests`: who is quicker changes nobody's prompts.
    A refused request counts as failed, and is not sent again: its caller goes on to the next after the pause that the
    service asked for. Raises TandemError as `Caller.call` does.
    """
    loop = _ClosedLoop(caller, requests, clients)
    try:
        return await loop.run(seconds, least_requests)
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


class _ClosedLoop(Requesting):
    def __init__(self, caller: Caller, requests: Requests, clients: int) -> None:
        super().__init__(caller, requests)
        self._own: list[list[Record]] = [[] for _ in range(clients)]

    async def run(self, seconds: float, least_requests: int) -> Loaded:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._client(number)) for number in range(len(self._own))]
            await self.until(lambda: self._fewest_ended(since=0.0) >= 1)
            # Not the time at which this task learns of it: the caller may have gone on by then.
            began, meter = self._last_end(), Meter()
            await self.until(
                lambda: self._last_end() >= began + seconds and self._fewest_ended(since=began) >= least_requests
            )
            window, cpu_seconds = Window(began, self._last_end()), meter.seconds()
            for task in tasks:
                task.cancel()
        return Loaded(window, self.records, window.whole(self.records), cpu_seconds)

    def _last_end(self) -> float:
        """Of any request; at least one has ended."""
        return max(record.ended for record in self.records if record.ended is not None)

    def _fewest_ended(self, *, since: float) -> int:
        """Requests that a caller began `since` then and that have ended; of the caller that has the fewest."""
        return min(
            sum(record.due >= since and record.ended is not None for record in records) for records in self._own
        )

    async def _client(self, number: int) -> None:
        for turn in itertools.count():
            record = Record(clock())
            self.records.append(record)
            self._own[number].append(record)
            if error := await self.request(number + turn * len(self._own), record):
                await asyncio.sleep(error.retry_after or _PAUSE_SECONDS)
