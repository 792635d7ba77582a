"""Finds the capacity of running services, then measures them at it and above."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.overload.points import Point
from bench.serve.arrivals import open_loop
from bench.serve.caller import Caller
from bench.serve.closed import closed_loop
from bench.serve.loops import Loaded
from bench.serve.records import Percentiles
from bench.serve.workload import Workload
from tandem.cli.errors import CliError
from tandem.v1 import policy_pb2

# Of a request before the deadline is known.
_TIMEOUT_SECONDS = 300.0
# Requests under way: the service is to bound them, not the bench.
_MOST_IN_FLIGHT = 100_000
_WARM_UP_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Scale:
    """clients: numbers of callers among which the one that gives the most is capacity. seconds: of a window. multiples:
    of capacity. patience: a request's deadline, in latencies of a caller alone."""

    clients: Sequence[int] = (2, 4, 8, 16)
    seconds: float = 20.0
    repetitions: int = 1
    multiples: Sequence[float] = (1.0, 3.0)
    patience: float = 5.0


@dataclass(slots=True)
class Measured:
    """alone: seconds of a request of one caller. deadline: of all others. by_clients: requests per second that ended
    within it, by how many callers made them in a closed loop."""

    alone: float = 0.0
    deadline: float = 0.0
    by_clients: dict[int, float] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)

    @property
    def capacity(self) -> float:
        return max(self.by_clients.values())

    def to_plain(self) -> dict[str, Any]:
        return {
            "alone_seconds": self.alone,
            "deadline_seconds": self.deadline,
            "by_clients": {str(clients): rate for clients, rate in self.by_clients.items()},
            "capacity": self.capacity if self.by_clients else None,
            "points": [point.to_plain() for point in self.points],
        }


async def run(
    endpoint: str,
    workload: Workload,
    policy: policy_pb2.SpeculationPolicy,
    scale: Scale,
    measured: Measured,
    say: Callable[[str], None],
) -> None:
    """measured: is filled in, so that whoever interrupts has what there was. Raises TandemError for an error that is no
    matter of load, CliError where nothing ended within the deadline."""
    async with Caller(endpoint, timeout=_TIMEOUT_SECONDS) as caller:
        say("warming up")
        request = workload.requests(policy, 0, "warm-up")(0)
        request.max_tokens = min(_WARM_UP_TOKENS, workload.max_tokens)
        await caller.once(request)
        say("one caller")
        requests = workload.requests(policy, 0, "alone")
        found = await closed_loop(caller, requests, 1, seconds=scale.seconds / 2, least_requests=3)
    measured.alone = _median_latency(found)
    measured.deadline = scale.patience * measured.alone
    async with Caller(endpoint, timeout=measured.deadline) as caller:
        for clients in scale.clients:
            say(f"capacity: {clients} callers")
            requests = workload.requests(policy, 0, f"capacity {clients}")
            found = await closed_loop(caller, requests, clients, seconds=scale.seconds / 2, least_requests=1)
            measured.by_clients[clients] = found.window.completions(found.records) / found.window.seconds
        if not measured.capacity:
            raise CliError(f"no request ended within {measured.deadline:.3g} s: there is no capacity to exceed")
        measured.points += [Point(multiple, multiple * measured.capacity) for multiple in scale.multiples]
        order = random.Random(workload.seed)
        for repetition in range(scale.repetitions):
            for point in order.sample(measured.points, k=len(measured.points)):
                say(f"repetition {repetition + 1} of {scale.repetitions}: {point.multiple:g} times capacity")
                requests = workload.requests(policy, repetition, f"times {point.multiple:g}")
                source = random.Random(f"{workload.seed} {repetition} {point.multiple}")
                point.runs.append(
                    await open_loop(
                        caller, requests, point.rate, source, seconds=scale.seconds, most_in_flight=_MOST_IN_FLIGHT
                    )
                )


def _median_latency(found: Loaded) -> float:
    seconds = [record.latency_seconds for record in found.counted if record.failure is None]
    latency = Percentiles.of([each for each in seconds if each is not None])
    if latency is None:
        raise CliError("no request of one caller alone ended well")
    return latency.p50


def whole_repetitions(measured: Measured) -> int:
    """Forgets what a repetition that was interrupted had measured; how many there were before it."""
    whole = min((len(point.runs) for point in measured.points), default=0)
    for point in measured.points:
        del point.runs[whole:]
    return whole
