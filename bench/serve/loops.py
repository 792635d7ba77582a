"""What the two kinds of load have in common: requests under way, their records, and how they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.serve.caller import Caller
from bench.serve.records import Record, Window
from tandem.rpc.errors import TandemError
from tandem.v1 import completion_pb2

#: The request of each number; the same number always gives the same.
Requests = Callable[[int], completion_pb2.CompleteRequest]


@dataclass(frozen=True, slots=True)
class Load:
    """clients: callers that each wait for their last answer (a closed loop), or None. rate: requests per second that
    arrive whatever became of those before (an open loop), or None. One of the two is given."""

    clients: int | None = None
    rate: float | None = None

    @property
    def is_open(self) -> bool:
        return self.rate is not None

    @property
    def kind(self) -> str:
        return "open" if self.is_open else "closed"

    @property
    def amount(self) -> float:
        return float(self.rate if self.rate is not None else self.clients or 0)

    def __str__(self) -> str:
        if self.rate is not None:
            return f"arrivals at {self.rate:g}/s"
        return "1 client" if self.clients == 1 else f"{self.clients} clients"


@dataclass(frozen=True, slots=True)
class Loaded:
    """One window of load. records: of all requests, also those before, after and cut off. counted: those of which
    times are told. cpu_seconds: that this process, the source of the load, took meanwhile."""

    window: Window
    records: list[Record]
    counted: list[Record]
    cpu_seconds: float


class Requesting:
    """Requests under way, and their records."""

    def __init__(self, caller: Caller, requests: Requests) -> None:
        self.records: list[Record] = []
        self._caller = caller
        self._requests = requests
        self._changed = asyncio.Condition()

    async def request(self, number: int, record: Record) -> TandemError | None:
        """Makes one request. Raises as `Caller.call` does."""
        error = await self._caller.call(self._requests(number), record)
        await self.tell()
        return error

    async def tell(self) -> None:
        """Something has changed that `until` may wait for."""
        async with self._changed:
            self._changed.notify_all()

    async def until(self, reached: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(reached)


class Meter:
    """Processor time of this process since it was made."""

    def __init__(self) -> None:
        self._began = time.process_time()

    def seconds(self) -> float:
        return time.process_time() - self._began
