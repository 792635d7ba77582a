"""What is left once all is quiet: sequences and their memory, descriptors, threads, resident memory."""

from __future__ import annotations

import asyncio

import grpc

from tests.chaos.outcomes import clock
from tests.chaos.processes import Resources
from tests.chaos.stage import ORCHESTRATORS, SERVICES, Stage

#: Who vanished without a word is noticed by keep-alive: 20 s and 5 s for the answer.
IDLE_SECONDS = 45.0
# Above what a process of its kind had after warming up. Connections come and go by their own clocks.
_DESCRIPTORS, _THREADS = 24, 12
_RESIDENT_SHARE, _RESIDENT_BYTES = 1.25, 64 << 20


async def until_idle(stage: Stage, seconds: float = IDLE_SECONDS) -> list[str]:
    """Waits until no service holds anything of a request; says what it still holds after so long."""
    deadline, found = clock() + seconds, [""]
    while found and clock() < deadline:
        found = [held for name in SERVICES if (held := await _held(stage, name))]
        found += [held for name in ORCHESTRATORS if (held := await _under_way(stage, name))]
        if found:
            await asyncio.sleep(0.2)
    return found


async def _held(stage: Stage, name: str) -> str:
    try:
        load = await stage.load(name)
    except grpc.aio.AioRpcError as error:
        return f"{name} does not say its load: {error.code().name}"
    if load.sessions or load.waiting_blocks or load.cache_bytes:
        return (
            f"{name} holds {load.sessions} sessions, {load.waiting_blocks} waiting blocks,"
            f" {load.cache_bytes} bytes of cache"
        )
    return ""


async def _under_way(stage: Stage, name: str) -> str:
    try:
        told = await stage.told_by(name)
    except grpc.aio.AioRpcError as error:
        return f"{name} does not say its load: {error.code().name}"
    streams = sum(each.completions for each in (*told.targets, *told.drafts))
    if told.completions or streams:
        return f"{name} has {told.completions} completions under way and counts {streams} streams"
    return ""


class Baseline:
    """Of each kind of service after warming up: the most of its processes."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._of: dict[str, Resources] = {}
        for process in stage.processes.values():
            found, most = process.resources(), self._of.get(process.kind)
            self._of[process.kind] = found if most is None else _most(found, most)

    def grown(self) -> list[str]:
        """What processes have beyond it."""
        found = []
        for process in self._stage.processes.values():
            if not process.is_running:
                continue
            now, base = process.resources(), self._of[process.kind]
            if now.descriptors > base.descriptors + _DESCRIPTORS:
                found.append(f"{process.name} has {now.descriptors} descriptors; {base.descriptors} after warming up")
            if now.threads > base.threads + _THREADS:
                found.append(f"{process.name} has {now.threads} threads; {base.threads} after warming up")
            if now.resident > base.resident * _RESIDENT_SHARE + _RESIDENT_BYTES:
                mib = (now.resident >> 20, base.resident >> 20)
                found.append(f"{process.name} has {mib[0]} MiB resident; {mib[1]} after warming up")
        return found

    async def until_back(self, seconds: float) -> list[str]:
        """Waits for what closes by its own clock; what is still beyond it after so long."""
        deadline = clock() + seconds
        while (found := self.grown()) and clock() < deadline:
            await asyncio.sleep(0.5)
        return found


def _most(one: Resources, other: Resources) -> Resources:
    return Resources(
        max(one.descriptors, other.descriptors), max(one.threads, other.threads), max(one.resident, other.resident)
    )
