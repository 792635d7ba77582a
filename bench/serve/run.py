"""Measures policies under load, in turn, on one set of running services."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.serve.arrivals import open_loop
from bench.serve.caller import Caller
from bench.serve.closed import closed_loop
from bench.serve.loops import Load, Loaded
from bench.serve.points import Point
from bench.serve.workload import Workload
from tandem.v1 import policy_pb2

_WARM_UP_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured. seconds: least length of a window. requests: least number that each client ends in it; of
    an open loop, that arrive in it in the mean. in_flight: most at once in an open loop. timeout: of a request."""

    seconds: float = 10.0
    requests: int = 1
    repetitions: int = 1
    in_flight: int = 64
    timeout: float = 300.0


async def run(
    endpoint: str,
    workload: Workload,
    policies: Mapping[str, policy_pb2.SpeculationPolicy],
    loads: Sequence[Load],
    scale: Scale,
    points: list[Point],
    say: Callable[[str], None],
) -> None:
    """Every policy at every load, in each repetition; policies at one load in an order drawn anew each time.

    points: what is measured is added to, so that whoever interrupts has what there was by then. say: told what is
    measured. Raises TandemError for an error that is no matter of load, CliError for a draft that is gone.
    """
    order = random.Random(workload.seed)
    points += [Point(policy, load) for load in loads for policy in policies]
    found = {(point.policy, point.load): point for point in points}
    async with Caller(endpoint, timeout=scale.timeout) as caller:
        for name, policy in policies.items():
            say(f"warming up: {name}")
            request = workload.requests(policy, 0, f"warm-up {name}")(0)
            request.max_tokens = min(_WARM_UP_TOKENS, workload.max_tokens)
            await caller.once(request)
        for repetition in range(scale.repetitions):
            for load in loads:
                for name in order.sample(list(policies), k=len(policies)):
                    say(f"repetition {repetition + 1} of {scale.repetitions}: {load}, {name}")
                    requests = workload.requests(policies[name], repetition, f"{load} {name}")
                    point = found[name, load]
                    # The same arrivals for all policies.
                    source = random.Random(f"{workload.seed} {repetition} {load}")
                    if load.rate is not None:
                        seconds = max(scale.seconds, scale.requests / load.rate)
                        loaded = await open_loop(
                            caller, requests, load.rate, source, seconds=seconds, most_in_flight=scale.in_flight
                        )
                    else:
                        assert load.clients is not None
                        loaded = await closed_loop(
                            caller, requests, load.clients, seconds=scale.seconds, least_requests=scale.requests
                        )
                    point.runs.append(loaded)
                    if _lost_drafts(loaded):
                        await caller.check_draft()


def whole_repetitions(points: Sequence[Point]) -> int:
    """Forgets what a repetition that was interrupted had measured; how many there were before it."""
    whole = min((len(point.runs) for point in points), default=0)
    for point in points:
        del point.runs[whole:]
    return whole


def _lost_drafts(loaded: Loaded) -> bool:
    """A busy draft may be too slow for a request; one that has ended must not go unnoticed."""
    return any(record.finish.speculation.draft_failures for record in loaded.records if record.finish is not None)
