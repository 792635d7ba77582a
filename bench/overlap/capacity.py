"""How many callers a target serves at a given rate: beside its draft on one device, and with drafts on their own."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.overlap.costs import Costs
from bench.overlap.run import AHEAD, NONE, Sums, Task, check_text
from bench.overlap.service import DRAFT, TARGET
from bench.overlap.services import Caller, Process, delayed, orchestrated, process
from bench.overlap.vocabulary import tokenizer
from bench.telemetry.cpu import cpu_seconds, machine_seconds

LOADS: Sequence[int] = (1, 2, 4, 8, 16, 32)
#: More callers, as long as those before them had the rate.
MORE_LOADS: Sequence[int] = (64,)
#: Most that times may be stretched: services that share a device hold it for half a second at most (see `Turns`).
MOST_STRETCH = 15.0
_WARM_TOKENS = 8
_PATIENT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Layout:
    """drafts, targets: how many, each on a device of its own. is_shared: one draft and one target on one device."""

    name: str
    drafts: int = 1
    targets: int = 1
    is_shared: bool = False


ONE_DEVICE = Layout("one device for both", is_shared=True)
LAYOUTS: Sequence[Layout] = (
    ONE_DEVICE, Layout("1 draft, 1 target"), Layout("1 draft, 2 targets", targets=2), Layout("2 drafts, 1 target", 2),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Load:
    """rate: tokens per second of the median caller, after its first token, as if nothing had been stretched. busy:
    share of the machine's processors that all of it took, and machine_busy: that anything did; None where the system
    does not say. round_tokens: that a round gave, on average. foreseen: share of outcomes whose block was there; None
    where none could be."""

    callers: int
    rate: float
    busy: float | None
    round_tokens: float = 0.0
    foreseen: float | None = None
    machine_busy: float | None = None


@dataclass(frozen=True, slots=True)
class Capacity:
    """Callers that have the rate, between two loads by the line between them. is_least: no load was too much."""

    callers: float
    is_least: bool

    def __str__(self) -> str:
        return f"{'at least ' if self.is_least else ''}{self.callers:.1f}"


@dataclass(slots=True)
class Capacities:
    """given: the rate in question. loads: by layout and way to draft, with rising callers."""

    length: int
    stretch: float
    given: float
    loads: dict[tuple[Layout, str], list[Load]] = field(default_factory=dict)

    def of(self, layout: Layout, way: str) -> Capacity:
        return capacity(self.loads[layout, way], self.given)

    def over_one_device(self, layout: Layout, way: str) -> float:
        """Callers per target over those of one device."""
        return self.of(layout, way).callers / layout.targets / max(self.of(ONE_DEVICE, NONE).callers, 1e-9)

    def to_plain(self) -> dict[str, Any]:
        return {
            "length": self.length, "stretch": self.stretch, "given": self.given,
            "layouts": [
                {"layout": layout.name, "way": way, "capacity": asdict(self.of(layout, way)),
                 "per_target_over_one_device": self.over_one_device(layout, way),
                 "loads": [asdict(each) for each in loads]}
                for (layout, way), loads in self.loads.items()
            ],
        }  # fmt: skip


def capacity(loads: Sequence[Load], given: float) -> Capacity:
    """loads: with rising callers. The first that misses the rate ends it: what more callers get says nothing."""
    before: Load | None = None
    for load in loads:
        if load.rate < given:
            if before is None:
                return Capacity(0.0, False)
            part = (before.rate - given) / (before.rate - load.rate)
            return Capacity(before.callers + part * (load.callers - before.callers), False)
        before = load
    return Capacity(float(before.callers) if before else 0.0, True)


def formula(costs: Costs, length: int, callers: float) -> float:
    """1 + gamma t_draft / t_verify (arXiv 2606.25091): callers of a target that drafts elsewhere over those of one that
    drafts itself, where the target is always busy; gamma is the length, times are of steps with so many callers."""
    rows = max(1, round(callers))
    return 1 + length * costs.draft_step(rows) / costs.target_step(rows * (length + 1))


async def measure(
    task: Task, costs: Costs, stretch: float, given: float | None, say: Callable[[str], None], *,
    layouts: Sequence[Layout] = LAYOUTS, loads: Sequence[int] = LOADS, more: Sequence[int] = MORE_LOADS,
) -> Capacities:  # fmt: skip
    """At the task's first length. given: tokens per second; half of what one caller alone has on one device if None.
    layouts: begin with ONE_DEVICE, which drafts nothing ahead. Raises CliError."""
    found = Capacities(task.lengths[0], stretch, given or 0.0)
    for layout in layouts:
        async with _served(task, costs.stretched(stretch), layout) as (caller, processes):
            policies = {way: task.policy(found.length, way) for way in (NONE, AHEAD)}
            await caller.complete(0, _WARM_TOKENS, policies[NONE])
            for way in (NONE,) if layout.is_shared else (NONE, AHEAD):
                done = found.loads[layout, way] = []
                for callers in (*loads, *more):
                    if callers in more and done[-1].rate < found.given:
                        break
                    say(f"{layout.name}, {way}: {callers} callers at once")
                    done.append(await _load(task, caller, callers, policies[way], stretch, processes))
                    found.given = found.given or done[0].rate / 2
    return found


async def _load(
    task: Task, caller: Caller, callers: int, policy: Any, stretch: float, processes: Sequence[Process]
) -> Load:
    watched = [os.getpid(), *(each.process_id for each in processes)]
    began, spent, machine = time.perf_counter(), cpu_seconds(watched), machine_seconds()
    sums = Sums()

    async def call(number: int) -> float:
        text = number % len(task.recording.texts)
        tokens, finish, _ = await caller.complete(text, task.tokens, policy)
        check_text(task, text, tokens)
        sums.add(finish)
        timed = finish.speculation.time
        return (len(tokens) - 1) / (timed.total_microseconds - timed.first_token_microseconds) * 1e6

    rates = list[float]()
    for _ in range(task.repetitions):
        rates += await asyncio.gather(*(call(number) for number in range(callers)))
    took = (time.perf_counter() - began) * (os.cpu_count() or 1)

    def busy(before: float | None, after: float | None) -> float | None:
        return None if before is None or after is None else (after - before) / took

    return Load(
        callers, statistics.median(rates) * stretch, busy(spent, cpu_seconds(watched)),
        sums.tokens / max(1, sums.rounds), sums.hit_rate, busy(machine, machine_seconds()),
    )  # fmt: skip


@asynccontextmanager
async def _served(task: Task, costs: Costs, layout: Layout) -> AsyncGenerator[tuple[Caller, list[Process]]]:
    """An orchestrator, and its services' processes."""
    recording = task.recording
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        turns = [str(Path(folder) / "turns")] if layout.is_shared else []
        processes: list[Process] = []

        async def service(role: str) -> str:
            arguments = (role, str(task.path), json.dumps(asdict(costs)), *turns)
            processes.append(await stack.enter_async_context(process("bench.overlap.service", *arguments)))
            return processes[-1].line

        async def draft() -> str:
            wire = 0.0 if layout.is_shared else costs.wire
            return await stack.enter_async_context(delayed(await service(DRAFT), wire))

        targets = [await service(TARGET) for _ in range(layout.targets)]
        drafts = [await draft() for _ in range(layout.drafts)]
        stub = await stack.enter_async_context(
            orchestrated(
                targets,
                drafts,
                tokenizer(),
                draft_patience_seconds=_PATIENT_SECONDS,
                draft_timeout_seconds=_PATIENT_SECONDS,
            )  # fmt: skip
        )
        yield Caller(stub, recording.temperature, recording.seed), processes
