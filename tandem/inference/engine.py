"""The engine: one thread owns the model, asyncio owns the network, they meet in one queue.

Every step is one forward pass for the next blocks of all works that are under way; a work joins at the step after its
submission and leaves when it has nothing to feed.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable
from collections.abc import Sequence as Seq
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tandem.inference.runner import Block, ModelRunner, Sequence
from tandem.inference.work import Job, Timing, Work

__all__ = ["Engine", "EngineClosedError", "EngineLoad", "Timing", "Work", "configure_threads"]

_log = logging.getLogger(__name__)


class EngineClosedError(Exception):
    """The engine has been closed."""


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """sequences: open ones. waiting: works that are queued or under way. cache_bytes: memory of all caches."""

    sequences: int
    waiting: int
    cache_bytes: int


class Engine:
    """Runs works on one model. `start` it, and `await close()` it at the end."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._inbox: queue.SimpleQueue[Job | Callable[[], None] | None] = queue.SimpleQueue()
        self._jobs: list[Job] = []
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
        else:
            self._fail_all()

    async def open(self) -> Sequence:
        """A new, empty sequence. Raises EngineClosedError."""
        if self._closed:
            raise EngineClosedError("the engine is closed")
        sequence = self._runner.open()
        self._sequences.add(sequence)
        return sequence

    async def release(self, sequence: Sequence) -> None:
        """Closes a sequence before the next step; a work on it that nobody cancelled fails with SequenceClosedError.

        Does not wait, so that a caller on its way out can call it.
        """
        self._sequences.discard(sequence)
        if self._closed:
            await self.close()
            sequence.close()
        else:
            self._inbox.put(sequence.close)

    async def run(self, work: Work) -> Timing:
        """Carries `work` through. Cancelling takes it out before the next step. Raises what the work raised."""
        job = self._submit(work)
        async with aclosing(self._results(job)) as results:
            async for _ in results:
                pass
        return job.timing()

    async def stream(self, work: Work) -> AsyncGenerator[tuple[Any, Timing]]:
        """As `run`, and yields each result of `receive` with the time spent since the one before."""
        before = Timing()
        async with aclosing(self._results(self._submit(work))) as results:
            async for item, timing in results:
                yield item, Timing(
                    timing.queue_microseconds - before.queue_microseconds,
                    timing.compute_microseconds - before.compute_microseconds,
                    timing.steps - before.steps,
                )
                before = timing

    def load(self) -> EngineLoad:
        sequences = tuple(self._sequences)
        return EngineLoad(len(sequences), self._waiting, sum(sequence.cache.bytes for sequence in sequences))

    def _submit(self, work: Work) -> Job:
        if self._closed:
            raise EngineClosedError("the engine is closed")
        job = Job(work, asyncio.get_running_loop())
        self._waiting += 1
        self._inbox.put(job)
        return job

    async def _results(self, job: Job) -> AsyncGenerator[tuple[Any, Timing]]:
        try:
            while (item := await job.items.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            job.cancelled = True  # where it is not finished
            self._waiting -= 1

    # On the engine's thread.

    def _loop(self) -> None:
        try:
            with torch.inference_mode():
                while self._take():
                    self._step()
        finally:
            self._closed = True
            self._fail_all()

    def _take(self) -> bool:
        """Takes in what has been submitted, waiting only where there is nothing to do; False at the end."""
        while True:
            try:
                message = self._inbox.get(block=not self._jobs)
            except queue.Empty:
                return True
            if message is None:
                return False
            if isinstance(message, Job):
                self._jobs.append(message)
            else:
                message()

    def _step(self) -> None:
        blocks, postponed = self._next_blocks()
        self._jobs = postponed
        if not blocks:
            return
        began = time.perf_counter()
        for job, _ in blocks:
            job.step_began(began)
        outcomes = self._forward([block for _, block in blocks])
        jobs = [job for job, _ in blocks]
        self._receive(jobs, outcomes, time.perf_counter() - began)
        # The older work of a sequence stays before the younger one.
        self._jobs = [job for job in jobs if not job.ended] + postponed

    def _next_blocks(self) -> tuple[list[tuple[Job, Block]], list[Job]]:
        """Jobs with their next blocks, and jobs that wait for an older one on the same sequence."""
        blocks: list[tuple[Job, Block]] = []
        postponed: list[Job] = []
        busy: set[Sequence] = set()
        for job in self._jobs:
            if job.work.sequence in busy:
                postponed.append(job)
            elif (block := self._next_block(job)) is not None:
                busy.add(job.work.sequence)
                blocks.append((job, block))
        return blocks, postponed

    def _next_block(self, job: Job) -> Block | None:
        """The job's next block; None where it is finished, has failed or nobody waits for it."""
        if job.cancelled:
            return None
        began = time.perf_counter()
        try:
            feed = job.work.next_block()
            if feed is not None:
                block = Block(job.work.sequence, *feed)
                self._runner.check(block)
                job.computed(time.perf_counter() - began)
                return block
        except Exception as error:
            job.end(error)
            return None
        job.end(None)
        return None

    def _forward(self, blocks: list[Block]) -> Seq[Tensor | Exception]:
        """Logits of each block, or what it failed with. A pass that fails changed nothing, so where it had several
        blocks each is tried alone: the one at fault fails, the others go on."""
        try:
            return self._runner.forward(blocks)
        except Exception as error:
            _log.warning("a forward pass over %d blocks failed: %s", len(blocks), error)
            if len(blocks) == 1:
                return [error]
        return [outcome for block in blocks for outcome in self._forward([block])]

    def _receive(self, jobs: Seq[Job], outcomes: Seq[Tensor | Exception], seconds: float) -> None:
        """Hands a step's logits to the works, those of one class together."""
        groups: dict[type[Work], list[tuple[Job, Tensor]]] = {}
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job.cancelled:
                job.ended = True
            elif isinstance(outcome, Exception):
                job.end(outcome)
            else:
                groups.setdefault(type(job.work), []).append((job, outcome))
        for group in groups.values():
            began = time.perf_counter()
            items = _received([job.work for job, _ in group], [logits for _, logits in group])
            spent = seconds + time.perf_counter() - began
            for (job, _), item in zip(group, items, strict=True):
                job.computed(spent)
                if isinstance(item, Exception):
                    job.end(item)
                elif item is not None:
                    job.send((item, job.timing()))

    def _fail_all(self) -> None:
        """Ends every work that is left, queued ones included."""
        while True:
            for job in self._jobs:
                job.send(EngineClosedError("the engine was closed"))
            self._jobs = []
            try:
                message = self._inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(message, Job):
                self._jobs = [message]
            elif message is not None:
                message()


def _received(works: Seq[Work], logits: Seq[Tensor]) -> Seq[Any]:
    """What the works, all of one class, made of their logits. One that raises is told from the others by itself."""
    try:
        return type(works[0]).receive_all(works, logits)
    except Exception as error:
        if len(works) == 1:
            return [error]
    return [item for work, rows in zip(works, logits, strict=True) for item in _received([work], [rows])]


def configure_threads(threads: int | None) -> None:
    """Bounds the CPU threads of this process's models; None leaves torch's choice (OMP_NUM_THREADS, or all cores).

    Threads that wait must not spin where services share cores: OMP_WAIT_POLICY=PASSIVE has to be in the environment
    before torch is imported, since OpenMP reads it once, when it is loaded. Three spinning two-thread processes on
    two cores take 3 to 10 times as long for a step.
    """
    if threads is not None:
        torch.set_num_threads(threads)
