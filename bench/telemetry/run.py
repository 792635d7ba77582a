"""Measures both sides in turn, and makes the figures."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from bench.goals import Figure
from bench.intervals import paired_ratio
from bench.repetition import interleave, quartiles, ratios
from bench.serve.caller import Caller
from bench.serve.closed import closed_loop
from bench.serve.workload import Workload
from bench.telemetry.cpu import cpu_seconds
from bench.telemetry.sides import Scraper
from tandem.cli.services import LocalServices
from tandem.v1 import policy_pb2

SHARE = "throughput_share"
CPU_SHARE = "cpu_share"
_ON, _OFF = "on", "off"


@dataclass(frozen=True, slots=True)
class Scale:
    """clients: callers at once. seconds: least length of what is counted, for each side and repetition."""

    clients: int
    seconds: float
    repetitions: int
    timeout: float = 300.0


@dataclass(frozen=True, slots=True)
class Side:
    """Of each repetition. speeds: tokens per second. cpu: tokens per second of CPU time of the three services; empty
    where the system does not tell."""

    speeds: Sequence[float]
    cpu: Sequence[float]


@dataclass(frozen=True, slots=True)
class Measured:
    """spans, scrapes: what there was of them on the side that tells."""

    on: Side
    off: Side
    spans: int
    scrapes: int

    def figures(self) -> list[Figure]:
        return [
            self._figure(SHARE, self.on.speeds, self.off.speeds),
            self._figure(CPU_SHARE, self.on.cpu, self.off.cpu),
        ]

    def _figure(self, name: str, on: Sequence[float], off: Sequence[float]) -> Figure:
        if not self.spans or not self.scrapes:
            return Figure.failed(name, f"{self.spans} spans and {self.scrapes} scrapes came: it was not all on")
        if not on:
            return Figure.skipped(name, "this system does not tell the CPU time of processes")
        if min(*on, *off) <= 0:
            return Figure.failed(name, "no tokens came in one of the runs")
        interval = paired_ratio(on, off)
        made_of = f"{len(on)} repetitions, {self.spans} spans, {self.scrapes} scrapes"
        if len(on) < 2:
            return Figure.skipped(name, f"one repetition says nothing of noise; {made_of}", interval.middle)
        note = f"95 %: {interval.low:.4f} to {interval.high:.4f}; {made_of}"
        return Figure(name, interval.middle, quartiles(ratios(on, off)), note, interval=interval)

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)


async def run(
    services: tuple[LocalServices, LocalServices],
    scraper: Scraper,
    spans: Callable[[], int],
    workload: Workload,
    policy: policy_pb2.SpeculationPolicy,
    scale: Scale,
    say: Callable[[str], None],
) -> Measured:
    """services: those that tell everything, and those that tell nothing. spans: how many have come. Raises TandemError
    for an error that is no matter of load."""
    on, off = services
    cpu: dict[str, list[float]] = {_ON: [], _OFF: []}
    async with (
        Caller(on.endpoint, timeout=scale.timeout) as to_on,
        Caller(off.endpoint, timeout=scale.timeout) as to_off,
    ):

        def side(name: str, caller: Caller, process_ids: Sequence[int]) -> Callable[[], Any]:
            repetition = 0

            async def measured() -> float:
                nonlocal repetition
                repetition += 1
                say(f"repetition {repetition} of {scale.repetitions}: {name}")
                # In one repetition both sides have the same prompts; only their marks differ.
                requests = workload.requests(policy, repetition, name)
                before = cpu_seconds(process_ids)
                async with scraper.reading() if name == _ON else nullcontext():
                    loaded = await closed_loop(caller, requests, scale.clients, seconds=scale.seconds, least_requests=1)
                after = cpu_seconds(process_ids)
                if before is not None and after is not None:  # of all that came, as the time is
                    tokens = sum(tokens for record in loaded.records for _, tokens in record.arrivals)
                    cpu[name].append(tokens / (after - before))
                return loaded.window.tokens(loaded.records) / loaded.window.seconds

            return measured

        sides = {_ON: side(_ON, to_on, on.process_ids), _OFF: side(_OFF, to_off, off.process_ids)}
        speeds = await interleave(sides, scale.repetitions, random.Random(workload.seed))
    return Measured(Side(speeds[_ON], cpu[_ON]), Side(speeds[_OFF], cpu[_OFF]), spans(), scraper.scrapes)
