"""The engine: one thread owns the model, asyncio owns the network, they meet in one queue.

Every step is one forward pass for the next blocks of all works that are under way; a work joins at the step after its
submission and leaves when it has nothing to feed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable
from collections.abc import Sequence as Seq
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tandem.inference.runner import Block, ModelRunner, Sequence

_log = logging.getLogger(__name__)


class EngineClosedError(Exception):
    """The engine has been closed."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one work: waiting for its first step, then steps that it took part in and what it made of them."""

    queue_microseconds: int = 0
    compute_microseconds: int = 0
    steps: int = 0


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """sequences: open ones. waiting: works that are queued or under way. cache_bytes: memory of all caches."""

    sequences: int
    waiting: int
    cache_bytes: int


class Work(Protocol):
    """What is to be done with one sequence. Both methods run on the engine's thread."""

    sequence: Sequence

    def next_block(self) -> tuple[Seq[int], int] | None:
        """Tokens to feed and how many of the last rows of logits are wanted; None when finished."""
        ...

    def receive(self, logits: Tensor) -> Any:
        """Takes fp32 logits [rows, V]. What it returns, unless None, is given to `stream`'s reader."""
        ...


class _Job:
    """A work under way and the task that awaits it."""

    def __init__(self, work: Work, loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self.cancelled = False
        self.items: asyncio.Queue[tuple[Any, Timing] | BaseException | None] = asyncio.Queue()
        self._loop = loop
        self._submitted = time.perf_counter()
        self._started: float | None = None
        self._compute = 0.0
        self._steps = 0

    def stepped(self, seconds: float) -> None:
        if self._started is None:
            self._started = time.perf_counter() - seconds
        self._compute += seconds
        self._steps += 1

    def add(self, seconds: float) -> None:
        self._compute += seconds

    def timing(self) -> Timing:
        started = self._submitted if self._started is None else self._started
        return Timing(
            max(0, round((started - self._submitted) * 1e6)), round(self._compute * 1e6), self._steps
        )

    def send(self, item: tuple[Any, Timing] | BaseException | None) -> None:
        """From the engine's thread to the awaiting task, whose loop may be gone by now."""
        try:
            self._loop.call_soon_threadsafe(self.items.put_nowait, item)
        except RuntimeError:
            _log.debug("the event loop of a work has been closed")


class Engine:
    """Runs works on one model. `start` it, and `await close()` it at the end."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._inbox: queue.SimpleQueue[_Job | Callable[[], None] | None] = queue.SimpleQueue()
        self._jobs: list[_Job] = []
        self._sequences: set[Sequence] = set()
        self._waiting = 0
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="tandem-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def close(self) -> None:
        """Ends the thread after its current step; works that are under way fail with EngineClosedError."""
        if not self._closed:
            self._closed = True
            self._inbox.put(None)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    async def open(self) -> Sequence:
        """A new, empty sequence. Raises EngineClosedError."""
        if self._closed:
            raise EngineClosedError("the engine is closed")
        sequence = self._runner.open()
        self._sequences.add(sequence)
        return sequence

    async def release(self, sequence: Sequence) -> None:
        """Frees a sequence before the next step. Does not wait: the caller may be on its way out."""
        self._sequences.discard(sequence)
        if self._closed:
            sequence.cache.free()
        else:
            self._inbox.put(sequence.cache.free)

    async def run(self, work: Work) -> Timing:
        """Carries `work` through. Cancelling takes it out before the next step. Raises what the work raised."""
        job = self._submit(work)
        async with aclosing(self._items(job)) as items:
            async for _ in items:
                pass  # nobody reads the results of a work that is run, not streamed
        return job.timing()

    async def stream(self, work: Work) -> AsyncGenerator[tuple[Any, Timing]]:
        """As `run`, and yields each result of `receive` with the time spent since the one before."""
        before = Timing()
        async with aclosing(self._items(self._submit(work))) as items:
            async for item, timing in items:
                yield item, Timing(
                    timing.queue_microseconds - before.queue_microseconds,
                    timing.compute_microseconds - before.compute_microseconds,
                    timing.steps - before.steps,
                )
                before = timing

    def load(self) -> EngineLoad:
        sequences = tuple(self._sequences)
        return EngineLoad(len(sequences), self._waiting, sum(sequence.cache.bytes for sequence in sequences))

    def _submit(self, work: Work) -> _Job:
        if self._closed:
            raise EngineClosedError("the engine is closed")
        job = _Job(work, asyncio.get_running_loop())
        self._waiting += 1
        self._inbox.put(job)
        return job

    async def _items(self, job: _Job) -> AsyncGenerator[tuple[Any, Timing]]:
        try:
            while (item := await job.items.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            job.cancelled = True
            self._waiting -= 1

    # On the engine's thread.

    def _loop(self) -> None:
        with torch.inference_mode():
            while self._take():
                self._step()
        for job in self._jobs:
            job.send(EngineClosedError("the engine was closed"))

    def _take(self) -> bool:
        """Takes in what has been submitted, waiting only where there is nothing to do; False at the end."""
        while True:
            try:
                message = self._inbox.get(block=not self._jobs)
            except queue.Empty:
                return True
            if message is None:
                return False
            if isinstance(message, _Job):
                self._jobs.append(message)
            else:
                message()

    def _step(self) -> None:
        blocks = [(job, block) for job in self._jobs if (block := self._next_block(job)) is not None]
        self._jobs = [job for job, _ in blocks]
        if not blocks:
            return
        started = time.perf_counter()
        try:
            logits = self._runner.forward([block for _, block in blocks])
        except Exception as error:  # whatever went wrong, it is the works' to report, and the thread lives on
            _log.exception("a forward pass over %d blocks failed", len(blocks))
            for job, _ in blocks:
                job.send(error)
            self._jobs = []
            return
        seconds = time.perf_counter() - started
        self._jobs = [
            job for (job, _), rows in zip(blocks, logits, strict=True) if self._receive(job, rows, seconds)
        ]

    def _next_block(self, job: _Job) -> Block | None:
        """The job's next block; None where it is finished, has failed or nobody waits for it."""
        if job.cancelled:
            return None
        try:
            feed = job.work.next_block()
            if feed is not None:
                block = Block(job.work.sequence, *feed)
                self._runner.check(block)
                return block
        except Exception as error:
            job.send(error)
            return None
        job.send(None)
        return None

    def _receive(self, job: _Job, logits: Tensor, seconds: float) -> bool:
        """Hands a step's logits to its work. False where that failed."""
        job.stepped(seconds)
        started = time.perf_counter()
        try:
            item = job.work.receive(logits)
        except Exception as error:
            job.send(error)
            return False
        job.add(time.perf_counter() - started)
        if item is not None:
            job.send((item, job.timing()))
        return True


def configure_threads(threads: int | None) -> None:
    """Bounds torch's CPU threads; None takes one per core that this process may use.

    Waiting threads must not spin where services share cores: `set_passive_waits` before torch is imported.
    """
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
