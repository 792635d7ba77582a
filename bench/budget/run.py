"""Three ways to share the steps of a target, measured in turn."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from bench.intervals import Interval, paired_ratio
from bench.serve.caller import Caller
from bench.serve.closed import closed_loop
from bench.serve.loops import Load
from bench.serve.points import Point
from bench.serve.workload import Workload
from tandem.policies import POLICIES, policy_from_names
from tandem.v1 import policy_pb2

#: All candidates of all callers are verified; each caller has the same share of the budget; the best ones have it.
ALL, SHARES, BEST = "no budget", "equal shares", "best of all"
WAYS = (ALL, SHARES, BEST)

_WARM_UP_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Scale:
    """clients: numbers of callers. seconds: least length of a window. block: candidates that are drafted. budget:
    candidates that a step verifies. timeout: seconds of a request."""

    clients: Sequence[int]
    seconds: float
    repetitions: int
    block: int
    budget: int
    timeout: float = 300.0

    def policy(self, way: str, clients: int) -> policy_pb2.SpeculationPolicy:
        """A share that is less than one candidate is the target alone."""
        length = min(self.block, self.budget // clients) if way == SHARES else self.block
        return policy_from_names("fixed", "exact", max_tokens=length) if length else POLICIES["off"]


@dataclass(slots=True)
class Measured:
    """points: by way and number of callers."""

    points: dict[tuple[str, int], Point] = field(default_factory=dict)

    def ratio(self, way: str, clients: int) -> Interval:
        """Of tokens a second to those without a budget, repetition by repetition."""
        return paired_ratio(self.points[way, clients].speeds, self.points[ALL, clients].speeds)

    def unsubmitted(self, way: str, clients: int) -> float | None:
        """Of all candidates that were drafted, the share that was not verified; None where none was drafted."""
        finished = [record.finish.speculation for record in self.points[way, clients].completed if record.finish]
        left = sum(report.unsubmitted_tokens for report in finished)
        drafted = left + sum(report.drafted_tokens for report in finished)
        return left / drafted if drafted else None

    def whole_repetitions(self) -> int:
        """Forgets what a repetition that was interrupted had measured; how many there were before it."""
        whole = min((len(point.runs) for point in self.points.values()), default=0)
        for point in self.points.values():
            del point.runs[whole:]
        return whole

    def to_plain(self) -> list[dict[str, Any]]:
        return [
            point.to_plain() | {"unsubmitted_share": self.unsubmitted(way, clients)}
            for (way, clients), point in self.points.items()
        ]


async def run(
    endpoints: Mapping[str, str], workload: Workload, scale: Scale, measured: Measured, say: Callable[[str], None]
) -> None:
    """endpoints: of services for each way. measured: is filled in, so that whoever interrupts has what there was.
    Raises as `bench.serve.run.run` does."""
    order = random.Random(workload.seed)
    measured.points = {
        (way, clients): Point(way, Load(clients=clients)) for clients in scale.clients for way in WAYS
    }
    async with AsyncExitStack() as stack:
        callers = {
            endpoint: await stack.enter_async_context(Caller(endpoint, timeout=scale.timeout))
            for endpoint in set(endpoints.values())
        }
        for endpoint, caller in callers.items():
            say("warming up")
            request = workload.requests(scale.policy(ALL, 1), 0, f"warm-up {endpoint}")(0)
            request.max_tokens = min(_WARM_UP_TOKENS, workload.max_tokens)
            await caller.once(request)
        for repetition in range(scale.repetitions):
            for clients in scale.clients:
                for way in order.sample(WAYS, k=len(WAYS)):
                    say(f"repetition {repetition + 1} of {scale.repetitions}: {clients} callers, {way}")
                    requests = workload.requests(scale.policy(way, clients), repetition, f"{clients} {way}")
                    found = await closed_loop(
                        callers[endpoints[way]], requests, clients, seconds=scale.seconds, least_requests=1
                    )
                    measured.points[way, clients].runs.append(found)
