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

    def step_began(self, at: float) -> None:
        if self._started is None:
            self._started = at
        self._steps += 1

    def computed(self, seconds: float) -> None:
        self._compute += seconds

    def timing(self) -> Timing:
        queued = 0.0 if self._started is None else self._started - self._submitted
        return Timing(round(queued * 1e6), round(self._compute * 1e6), self._steps)

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

    def _submit(self, work: Work) -> _Job:
        if self._closed:
            raise EngineClosedError("the engine is closed")
        job = _Job(work, asyncio.get_running_loop())
        self._waiting += 1
        self._inbox.put(job)
        return job

    async def _results(self, job: _Job) -> AsyncGenerator[tuple[Any, Timing]]:
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
            if isinstance(message, _Job):
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
        seconds = time.perf_counter() - began
        going_on = [
            job for (job, _), outcome in zip(blocks, outcomes, strict=True) if self._receive(job, outcome, seconds)
        ]
        self._jobs = going_on + postponed  # the older work of a sequence stays before the younger one

    def _next_blocks(self) -> tuple[list[tuple[_Job, Block]], list[_Job]]:
        """Jobs with their next blocks, and jobs that wait for an older one on the same sequence."""
        blocks: list[tuple[_Job, Block]] = []
        postponed: list[_Job] = []
        busy: set[Sequence] = set()
        for job in self._jobs:
            if job.work.sequence in busy:
                postponed.append(job)
            elif (block := self._next_block(job)) is not None:
                busy.add(job.work.sequence)
                blocks.append((job, block))
        return blocks, postponed

    def _next_block(self, job: _Job) -> Block | None:
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
            job.send(error)
            return None
        job.send(None)
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

    def _receive(self, job: _Job, outcome: Tensor | Exception, seconds: float) -> bool:
        """Hands a step's logits to its work. False where it is over."""
        if job.cancelled:
            return False
        if isinstance(outcome, Exception):
            job.send(outcome)
            return False
        began = time.perf_counter()
        try:
            item = job.work.receive(outcome)
        except Exception as error:
            job.send(error)
            return False
        job.computed(seconds + time.perf_counter() - began)
        if item is not None:
            job.send((item, job.timing()))
        return True

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
            if isinstance(message, _Job):
                self._jobs = [message]
            elif message is not None:
                message()


def configure_threads(threads: int | None) -> None:
    """Bounds the CPU threads of this process's models; None leaves torch's choice (OMP_NUM_THREADS, or all cores).

    Threads that wait must not spin where services share cores: OMP_WAIT_POLICY=PASSIVE has to be in the environment
    before torch is imported, since OpenMP reads it once, when it is loaded. Three spinning two-thread processes on
    two cores take 3 to 10 times as long for a step.
    """
    if threads is not None:
        torch.set_num_threads(threads)
