"""The engine: one thread owns the model, asyncio owns the network, they meet in one queue.

Every step is one forward pass for what the scheduler picks of all works that are under way; a work joins at the step
after its submission and leaves when it has nothing to feed.
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
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tandem.inference.runner import Block, Chunk, ModelRunner
from tandem.inference.scheduler import Budget, Scheduler, Task
from tandem.inference.sequence import Sequence, SequenceClosedError
from tandem.inference.threads import compute_with
from tandem.inference.work import Job, Timing, Work

if TYPE_CHECKING:
    from tandem.inference.turns import Turns  # not for every system

__all__ = ["Engine", "EngineClosedError", "EngineFullError", "EngineLimits", "EngineLoad", "Timing", "Work"]

_log = logging.getLogger(__name__)

# Memory that the logits of one step may take, in fp32.
_LOGITS_BYTES = 256 << 20
# Seconds between looks at whether a step has become possible, where others hold the whole cache.
_STALL_SECONDS = 0.02
_RETRY_SECONDS = (0.5, 30.0)
# Where another has had the turn: most time to wait for what is on its way, and most between two arrivals.
_GATHER_SECONDS = 0.02
_GAP_SECONDS = 0.004


class EngineClosedError(Exception):
    """The engine has been closed."""


class EngineFullError(Exception):
    """The engine takes no more sequences now. retry_after: seconds after which it may."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """max_sequences: open ones. max_queue: open ones of which nothing has been run yet. step_tokens: tokens of a step
    that prompts may fill up; None for 2,048 on CUDA and 24 per thread on a CPU, which keeps such a step short."""

    max_sequences: int = 256
    max_queue: int = 64
    step_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """sequences: open ones. waiting: works that are queued or under way. cache_bytes: of blocks that open sequences
    hold. cache_capacity_bytes: of all blocks. preemptions: sequences that had to give way since the start."""

    sequences: int
    waiting: int
    cache_bytes: int
    cache_capacity_bytes: int
    preemptions: int


class Engine:
    """Runs works on one model. `start` it, and `await close()` it at the end."""

    def __init__(
        self,
        runner: ModelRunner,
        limits: EngineLimits | None = None,
        *,
        threads: int | None = None,
        turns: Turns | None = None,
    ) -> None:
        """threads: of the CPU, to compute with; None for as many as the calling thread has. turns: with the engines of
        other services, whose steps are not to run at the same time; closed with this one."""
        self._runner = runner
        self._limits = limits or EngineLimits()
        self._threads = threads or torch.get_num_threads()
        self._turns = turns
        self._scheduler = Scheduler(runner.cache.pool, _budget(runner, self._limits, self._threads))
        self._inbox: queue.SimpleQueue[Job | Callable[[], None] | None] = queue.SimpleQueue()
        self._jobs: list[Job] = []
        self._is_stalled = False
        self._sequences: set[Sequence] = set()
        self._queued: set[Sequence] = set()  # those of which nothing has been run yet
        self._waiting = 0
        self._token_seconds = 0.0  # what a token of a step takes, of late
        self._closed = False
        self._has_threads = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="tandem-engine", daemon=True)

    def start(self) -> None:
        others = torch.get_num_threads()
        self._thread.start()
        self._has_threads.wait()
        torch.set_num_threads(others)  # also of the threads to come

    async def close(self) -> None:
        """Ends the thread after its current step; works that are under way fail with EngineClosedError."""
        if not self._closed:
            self._closed = True
            self._inbox.put(None)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)
        else:
            self._close_turns()
            self._fail_all()

    async def open(self, priority: int = 0) -> Sequence:
        """A new, empty sequence. priority: who goes first where not all can be run, larger numbers before smaller
        ones. Raises EngineClosedError or EngineFullError."""
        self._admit()
        sequence = self._runner.open(priority)
        self._sequences.add(sequence)
        self._queued.add(sequence)
        self._inbox.put(lambda: self._scheduler.add(sequence))
        return sequence

    async def release(self, sequence: Sequence) -> None:
        """Closes a sequence before the next step; a work on it that nobody cancelled fails with SequenceClosedError.

        Does not wait, so that a caller on its way out can call it.
        """
        self._sequences.discard(sequence)
        self._queued.discard(sequence)
        if self._closed:
            await self.close()
            sequence.close()
        else:
            self._inbox.put(lambda: self._close(sequence))

    async def run(self, work: Work) -> Timing:
        """Carries `work` through. Cancelling takes it out before the next step. Raises what the work raised."""
        job = self._submit(work)
        async with aclosing(self._results(job)) as results:
            async for _ in results:
                pass
        return job.timing()

    async def stream(self, work: Work) -> AsyncGenerator[tuple[Any, Timing]]:
        """As `run`, and yields what `receive_all` returned for it with the time spent since the item before."""
        before = Timing()
        async with aclosing(self._results(self._submit(work))) as results:
            async for item, timing in results:
                yield item, timing.since(before)
                before = timing

    def load(self) -> EngineLoad:
        cache = self._runner.cache
        return EngineLoad(
            sequences=len(self._sequences),
            waiting=self._waiting,
            cache_bytes=cache.pool.held * cache.block_bytes,
            cache_capacity_bytes=cache.pool.count * cache.block_bytes,
            preemptions=self._scheduler.preemptions,
        )

    def _admit(self) -> None:
        if self._closed:
            raise EngineClosedError("the engine is closed")
        limits = self._limits
        if len(self._sequences) >= limits.max_sequences:
            raise EngineFullError(f"all {limits.max_sequences} sequences are taken", self._retry_after())
        if len(self._queued) >= limits.max_queue:
            raise EngineFullError(f"{limits.max_queue} sequences wait for their first step", self._retry_after())

    def _retry_after(self) -> float:
        """About as long as what is waiting takes."""
        missing = sum(job.sequence.missing for job in tuple(self._jobs))
        return min(max(missing * self._token_seconds, _RETRY_SECONDS[0]), _RETRY_SECONDS[1])

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
            compute_with(self._threads)
            self._has_threads.set()
            with torch.inference_mode():
                while self._take():
                    if self._turns is None:
                        self._step_or_fail()
                    elif not self._step_in_turn(self._turns):
                        break
        finally:
            self._closed = True
            self._close_turns()
            self._has_threads.set()  # whoever started it must not wait for what failed
            self._fail_all()

    def _take(self) -> bool:
        """Takes in what has been submitted, waiting only where there is nothing to do; False at the end."""
        while True:
            try:
                if self._is_stalled:
                    message = self._inbox.get(timeout=_STALL_SECONDS)
                else:
                    message = self._inbox.get(block=not self._jobs)
            except queue.Empty:
                return True
            self._is_stalled = False
            if not self._handle(message):
                return False

    def _gather(self) -> bool:
        """As `_take`, and waits a moment for more, for as long as more comes and not all sequences have work: what was
        made in another's turn is on its way, and one step for all takes little longer than one for the first."""
        if not self._take():
            return False
        ends = time.perf_counter() + _GATHER_SECONDS
        while len(self._jobs) < len(self._sequences) and (left := ends - time.perf_counter()) > 0:
            try:
                message = self._inbox.get(timeout=min(left, _GAP_SECONDS))
            except queue.Empty:
                return True
            if not self._handle(message):
                return False
        return True

    def _handle(self, message: Job | Callable[[], None] | None) -> bool:
        """False at the end."""
        if isinstance(message, Job):
            self._jobs.append(message)
        elif message is not None:
            message()
        return message is not None

    def _step_in_turn(self, turns: Turns) -> bool:
        """A step, if there is one to make; False at the end. No work that is finished waits for a turn."""
        if self._has_tasks():
            if turns.begin() and not self._gather():
                return False
            self._step_or_fail()
            turns.end(more=self._has_tasks() and not self._is_stalled)
        return True

    def _close(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        sequence.close()

    def _step_or_fail(self) -> None:
        """A defect ends the works that it met, never the engine: others are still to come."""
        try:
            self._step()
        except Exception as error:
            self._give_up(error)

    def _close_turns(self) -> None:
        if self._turns is not None:
            self._turns.close()
            self._turns = None

    def _has_tasks(self) -> bool:
        try:
            return bool(self._with_tasks())
        except Exception as error:
            self._give_up(error)
            return False

    def _give_up(self, error: Exception) -> None:
        _log.exception("a step failed")
        for job in self._jobs:
            job.give_up(error)
        self._jobs = []

    def _step(self) -> None:
        running = self._with_tasks()
        planned = self._scheduler.plan(list(running)) if running else []
        self._is_stalled = bool(running) and not planned
        if not planned:
            return
        began = time.perf_counter()
        jobs, chunks = [running[task] for task, _ in planned], [chunk for _, chunk in planned]
        tokens = sum(chunk.count for chunk in chunks)
        for job in jobs:
            job.step_began(began, tokens, len(chunks))
            self._queued.discard(job.sequence)
        outcomes = self._run(chunks)
        seconds = time.perf_counter() - began
        self._note_pace(seconds / tokens)
        self._receive(jobs, outcomes, seconds)
        self._jobs = [job for job in self._jobs if not job.ended]

    def _with_tasks(self) -> dict[Task, Job]:
        """The jobs that have tokens to run. Those that wait for an older one on the same sequence are not among them,
        those that are over have left."""
        running: dict[Task, Job] = {}
        busy: set[Sequence] = set()
        for job in self._jobs:
            if job.cancelled:
                job.abandon()
            elif job.sequence not in busy:
                if job.task is None:
                    self._next_block(job)
                elif job.sequence.closed:
                    job.end(SequenceClosedError("the sequence is closed"))
                if job.task is not None and not job.ended:
                    running[job.task] = job
                    busy.add(job.sequence)
        self._jobs = [job for job in self._jobs if not job.ended]
        return running

    def _next_block(self, job: Job) -> None:
        """Gives the job its next task, or ends it."""
        began = time.perf_counter()
        try:
            feed = job.work.next_block()
            if feed is None:
                job.end(None)
                return
            block = Block(job.sequence, *feed)
            self._runner.check(block)
        except Exception as error:
            job.end(error)
            return
        job.begin(block.token_ids, block.logits_rows)
        job.computed(time.perf_counter() - began)

    def _run(self, chunks: Seq[Chunk]) -> Seq[Tensor | Exception]:
        """Logits of each chunk, or what it failed with. A pass that fails changed nothing, so where it had several
        chunks each is tried alone: the one at fault fails, the others go on."""
        try:
            return self._runner.run(chunks)
        except Exception as error:
            _log.warning("a forward pass over %d sequences failed: %s", len(chunks), error)
            if len(chunks) == 1:
                return [error]
        return [outcome for chunk in chunks for outcome in self._run([chunk])]

    def _receive(self, jobs: Seq[Job], outcomes: Seq[Tensor | Exception], seconds: float) -> None:
        """Hands a step's logits to the works whose blocks are complete, those of one class together."""
        groups: dict[type[Work], list[tuple[Job, Tensor]]] = {}
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job.cancelled:
                job.abandon()
            elif isinstance(outcome, Exception):
                job.give_up(outcome)
            elif job.sequence.missing:
                job.computed(seconds)
            else:
                job.complete()
                groups.setdefault(type(job.work), []).append((job, outcome))
        for group in groups.values():
            began = time.perf_counter()
            items = _received([job.work for job, _ in group], [logits for _, logits in group])
            spent = seconds + time.perf_counter() - began
            for (job, _), item in zip(group, items, strict=True):
                job.computed(spent)
                if isinstance(item, Exception):
                    job.sequence.table.forget()  # what made it fail may lie in the cache
                    job.end(item)
                elif item is not None:
                    job.send((item, job.timing()))

    def _note_pace(self, token_seconds: float) -> None:
        self._token_seconds += (token_seconds - self._token_seconds) * (0.1 if self._token_seconds else 1)

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


def _budget(runner: ModelRunner, limits: EngineLimits, threads: int) -> Budget:
    loaded = runner.loaded
    # On a CPU matrices of some tens of rows are as quick per row as larger ones.
    tokens = limits.step_tokens or (2048 if loaded.device.type == "cuda" else 24 * max(2, threads))
    return Budget(tokens=tokens, rows=max(1, _LOGITS_BYTES // (4 * loaded.vocabulary_size)))


def _received(works: Seq[Work], logits: Seq[Tensor]) -> Seq[Any]:
    """What the works, all of one class, made of their logits. One that raises is told from the others by itself."""
    try:
        return type(works[0]).receive_all(works, logits)
    except Exception as error:
        if len(works) == 1:
            return [error]
    return [item for work, rows in zip(works, logits, strict=True) for item in _received([work], [rows])]
