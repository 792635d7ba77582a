"""Resident memory of a target service under mixed load for a long time."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Protocol

from bench.engine.figures import SOAK_GOAL_MINUTES, SOAK_MEMORY
from bench.engine.load import Load
from bench.engine.models import Models
from bench.engine.scale import Scale
from bench.goals import Figure
from tandem.cli.services import Service
from tandem.rpc.channels import connect
from tandem.v1 import target_pb2, target_pb2_grpc

_BASELINE = 0.1  # of the time
_WINDOW = 0.05  # of the time: samples before each mark of which the median is taken
_SAMPLES = 600
# Memory of the cache is taken as it is first written to; this much has been long before the first mark.
_CACHE = "256MiB"
_STOP_SECONDS = 15.0
_DRAIN_SECONDS = 10.0


async def measure(
    minutes: float | None, models: Models, scale: Scale, random_source: random.Random
) -> AsyncGenerator[Figure]:
    """The ratio of resident memory at the end to that after a tenth of the time. minutes: None skips it."""
    if minutes is None:
        yield Figure.skipped(SOAK_MEMORY, "it takes --soak MINUTES")
        return
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        flags = ["--model", models.name, "--threads", str(models.threads), "--port", "0", "--log-level", "warning"]
        flags += ["--device", "cpu", "--cache-bytes", _CACHE]
        service = _Target("target_service", flags, log=Path(folder) / "target.log")
        try:
            await asyncio.to_thread(service.read_port)
            try:
                figure = await _soak(service, minutes, random_source)
            except Exception as error:
                if ending := service.ending():
                    raise RuntimeError(f"the target service ended under load ({ending})") from error
                raise
            yield figure
        finally:
            service.terminate()
            await asyncio.to_thread(service.wait, _STOP_SECONDS)


class _Resident(Protocol):
    """A service that listens on `port` of this machine."""

    port: int

    def resident_bytes(self) -> int: ...


async def _soak(service: _Resident, minutes: float, random_source: random.Random) -> Figure:
    seconds = minutes * 60
    async with connect(f"127.0.0.1:{service.port}") as channel:
        stub = target_pb2_grpc.TargetServiceStub(channel)
        model = (await stub.GetTargetModel(target_pb2.GetTargetModelRequest())).model
        load = Load(stub, model, random_source)
        sampling = asyncio.create_task(_sample(service, seconds))
        try:
            await load.run(seconds)
            samples = await sampling
        finally:
            sampling.cancel()
        await _drained(stub)
    early, late = _median_before(samples, seconds * _BASELINE, seconds), _median_before(samples, seconds, seconds)
    note = f"{late / 2**20:.0f} MiB over {early / 2**20:.0f} MiB; {load.account()}"
    if minutes < SOAK_GOAL_MINUTES:
        why = f"{minutes:g} minutes, and the goal is for {SOAK_GOAL_MINUTES:g}: no verdict; {note}"
        return Figure.skipped(SOAK_MEMORY, why, measured=late / early)
    return Figure(SOAK_MEMORY, late / early, note=note)


async def _sample(service: _Resident, seconds: float) -> list[tuple[float, int]]:
    """Resident bytes by the time since the start, until `seconds` have passed."""
    samples, began = list[tuple[float, int]](), time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        samples.append((passed, service.resident_bytes()))
        await asyncio.sleep(seconds / _SAMPLES)
    return samples


def _median_before(samples: Sequence[tuple[float, int]], mark: float, seconds: float) -> float:
    return statistics.median(size for at, size in samples if mark - seconds * _WINDOW <= at <= mark)


async def _drained(stub: target_pb2_grpc.TargetServiceStub) -> None:
    """Raises RuntimeError where sessions outlive their streams."""
    deadline = time.monotonic() + _DRAIN_SECONDS
    while (load := (await stub.GetTargetLoad(target_pb2.GetTargetLoadRequest())).load).sessions:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{load.sessions} sessions are left though all streams are closed")
        await asyncio.sleep(0.1)


def resident_bytes(pid: int) -> int:
    """Of a process, on Linux. Raises ProcessLookupError where it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except FileNotFoundError:
        pages = 0
    if not pages:  # as of one that has ended and nobody has waited for
        raise ProcessLookupError(f"process {pid} has ended")
    return pages * os.sysconf("SC_PAGE_SIZE")


class _Target(Service):
    def resident_bytes(self) -> int:
        """Raises ProcessLookupError where it has ended."""
        return resident_bytes(self._process.pid)
