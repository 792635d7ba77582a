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

from tandem.inference.admission import (
    Admission,
    DeadlinePassedError,
    EngineFullError,
    EngineLimits,
    deadline,
)
from tandem.inference.jobs import Jobs, receive
from tandem.inference.observer import EngineObserver, StepReport
from tandem.inference.rhythm import Rhythm
from tandem.inference.runner import Chunk, ModelRunner
from tandem.inference.scheduler import Budget, Scheduler
from tandem.inference.sequence import Sequence
from tandem.inference.threads import compute_with
from tandem.inference.work import AheadJob, AheadWork, Job, Timing, Work

if TYPE_CHECKING:
    from tandem.inference.turns import Turns  # not for every system

__all__ = [
    "DeadlinePassedError", "Engine", "EngineClosedError", "EngineFullError", "EngineLimits", "EngineLoad", "Timing",
    "Work",
]  # fmt: skip

_log = logging.getLogger(__name__)

# Memory that the logits of one step may take, in fp32.
_LOGITS_BYTES = 256 << 20
# Where a device of its own computes, so many rows take hardly longer than one.
_AHEAD_ROWS = 16
# Works that nobody awaits, for each row that they may fill.
_AHEAD_WORKS = 2
# Seconds between looks at whether a step has become possible, where others hold the whole cache.
_STALL_SECONDS = 0.02
# Where another has had the turn: most time to wait for what is on its way, and most between two arrivals.
_GATHER_SECONDS = 0.02
_GAP_SECONDS = 0.004


class EngineClosedError(Exception):
    """The engine has been closed."""


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """sequences: open ones. waiting: works that are queued or under way. cache_bytes: of blocks that open sequences
    hold. cache_capacity_bytes: of all blocks. queued: open sequences of which nothing has been run yet. max_sequences,
    max_queue: most of `sequences` and of `queued`; 0: not bounded.

    Since the start, preemptions: sequences that had to give way. prefix_tokens: tokens found in the cache instead of
    being computed. prefilled_tokens: tokens computed of which no logits were wanted: prompts, and what had given way.
    """

    sequences: int
    waiting: int
    cache_bytes: int
    cache_capacity_bytes: int
    preemptions: int
    prefix_tokens: int = 0
    prefilled_tokens: int = 0
    queued: int = 0
    max_sequences: int = 0
    max_queue: int = 0


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
        self._threads = threads or torch.get_num_threads()
        self._turns = turns
        limits = limits or EngineLimits()
        budget = _budget(runner, limits, self._threads)
        self._scheduler = Scheduler(runner.cache.pool, budget)
        self._admission = Admission(limits, budget.tokens)
        self._inbox: queue.SimpleQueue[Job | Callable[[], None] | None] = queue.SimpleQueue()
        self._rhythm = Rhythm()
        self._jobs = Jobs(runner, self._rhythm)
        self._is_stalled = False
        self._awaited: set[Job] = set()
        self._prefilled_tokens = 0
        self._found_before = 0  # tokens found in the cache, up to the last step
        self._observer: EngineObserver | None = None
        self._closed = False
        self._failed = False
        self._has_threads = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="tandem-engine", daemon=True)

    def start(self) -> None:
        others = torch.get_num_threads()
        self._thread.start()
        self._has_threads.wait()
        torch.set_num_threads(others)  # also of the threads to come

    def attach(self, observer: EngineObserver) -> None:
        """Tells it of every step from now on."""
        self._observer = observer

    async def close(self) -> None:
        """Ends the thread after its current step; works that are under way fail with EngineClosedError."""
        if not self._closed:
            self._closed = True
            self._inbox.put(None)
        if self._failed:
            return
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)
        else:
            self._close_turns()
            self._fail_all()

    def fail(self, error: EngineClosedError) -> None:
        """Closes at once, with `error` for all works, even where the thread never comes back from its step. From the
        event loop of the works; the process is to end then."""
        self._failed = self._closed = True
        self._inbox.put(None)
        for job in tuple(self._awaited):
            job.send(error)

    async def open(self, priority: int = 0, *, tokens: int = 0, within: float | None = None) -> Sequence:
        """A new, empty sequence.

        priority: who goes first where not all can be run, larger numbers before smaller ones. tokens: that are to be
        fed first. within: seconds that its caller waits; works on it end with DeadlinePassedError after that, without
        another step. Raises EngineClosedError or EngineFullError.
        """
        if self._closed:
            raise EngineClosedError("the engine is closed")
        self._admission.check(priority, tokens, within)
        sequence = self._runner.open(priority)
        sequence.deadline = deadline(within)
        self._admission.add(sequence, tokens)
        self._inbox.put(lambda: self._scheduler.add(sequence))
        return sequence

    async def release(self, sequence: Sequence) -> None:
        """Closes a sequence before the next step; a work on it that nobody cancelled fails with SequenceClosedError.

        Does not wait, so that a caller on its way out can call it.
        """
        self._admission.remove(sequence)
        if self._failed:
            return
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

    @property
    def ahead_rows(self) -> int:
        """Tokens of a step up to which it is filled with what nobody has asked for, while few are served; 0: there is
        no such work."""
        return self._scheduler.budget.ahead_rows

    @property
    def chooses(self) -> bool:
        """Whether a step may leave candidates off."""
        budget = self._scheduler.budget
        return budget.weighs or budget.candidates > 0

    def call(self, function: Callable[[], None]) -> None:
        """Calls `function` on the engine's thread, between two steps, in the order of all that is submitted. Where the
        engine has been closed it may never be called."""
        if not self._closed:
            self._inbox.put(function)

    def load(self) -> EngineLoad:
        cache = self._runner.cache
        return EngineLoad(
            sequences=self._admission.sequences,
            waiting=len(self._awaited),
            cache_bytes=cache.pool.held * cache.block_bytes,
            cache_capacity_bytes=cache.pool.count * cache.block_bytes,
            preemptions=self._scheduler.preemptions,
            prefix_tokens=self._scheduler.prefix_tokens,
            prefilled_tokens=self._prefilled_tokens,
            queued=self._admission.queued,
            max_sequences=self._admission.limits.max_sequences,
            max_queue=self._admission.limits.max_queue,
        )

    def _submit(self, work: Work) -> Job:
        if self._closed:
            raise EngineClosedError("the engine is closed")
        job = Job(work, asyncio.get_running_loop())
        self._awaited.add(job)
        self._inbox.put(job)
        return job

    async def _results(self, job: Job) -> AsyncGenerator[tuple[Any, Timing]]:
        try:
            while (item := await job.take()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            job.cancelled = True  # where it is not finished
            self._awaited.discard(job)

    # On the engine's thread.

    def branch(self, sequence: Sequence, length: int) -> Sequence:
        """A branch (see `Sequence.branch`) that gives way to all sequences that are none. From a work or `call`."""
        branch = sequence.branch(length)
        self._scheduler.add(branch)
        return branch

    def close_branch(self, branch: Sequence) -> None:
        """Frees it; a work on it ends. From a work or `call`."""
        self._scheduler.remove(branch)
        branch.close()

    def run_ahead(self, work: AheadWork) -> None:
        """Takes on a work that nobody awaits; of too many the one that is worth least ends, and its branch closes. From
        a work or `call`."""
        self._jobs.add(AheadJob(work))
        least = self._jobs.worth_least_ahead(_AHEAD_WORKS * self._scheduler.ahead_rows())
        if least is not None:
            self.close_branch(least.sequence)

    def least_worth(self) -> float:
        """What a work that nobody awaits has to be worth to find room in a step beside those that there are: most of
        what is begun under load would never be run. From a work or `call`."""
        return self._jobs.least_worth(self._scheduler.ahead_rows())

    def _loop(self) -> None:
        try:
            compute_with(self._threads)
            self._has_threads.set()
            with torch.inference_mode():
                while self._take():
                    if self._turns is None:
                        if not self._wait_for_others():
                            break
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
                if self._is_stalled or self._jobs.are_unread:
                    message = self._inbox.get(timeout=_STALL_SECONDS)
                else:
                    message = self._inbox.get(block=not self._jobs)
            except queue.Empty:
                return True
            self._is_stalled = False
            if not self._handle(message):
                return False

    def _wait_for_others(self) -> bool:
        """As long as it pays, see `Rhythm`; False at the end."""
        if self._admission.sequences < 2 or not self._has_tasks():  # which lets those go who have what they asked for
            return True
        since = time.perf_counter()
        while seconds := self._rhythm.waits(self._jobs.asked, since, time.perf_counter()):
            try:
                message = self._inbox.get(timeout=seconds)
            except queue.Empty:
                continue
            if not self._handle(message):
                return False
        return True

    def _gather(self) -> bool:
        """As `_take`, and waits a moment for more, for as long as more comes and not all sequences have work: what was
        made in another's turn is on its way, and one step for all takes little longer than one for the first."""
        if not self._take():
            return False
        ends = time.perf_counter() + _GATHER_SECONDS
        while self._jobs.asked < self._admission.sequences and (left := ends - time.perf_counter()) > 0:
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
            self._jobs.add(message)
        elif message is not None:
            _call(message)
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
        for branch in sequence.branches:
            self._scheduler.remove(branch)
        self._scheduler.remove(sequence)
        self._rhythm.gone(sequence.number)
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
            return bool(self._jobs.tasks())
        except Exception as error:
            self._give_up(error)
            return False

    def _give_up(self, error: Exception) -> None:
        _log.exception("a step failed")
        self._jobs.give_up(error)

    def _step(self) -> None:
        running = self._jobs.tasks()
        planned = self._scheduler.plan(list(running)) if running else []
        self._is_stalled = bool(running) and not planned
        if not planned:
            return
        began = time.perf_counter()
        jobs, chunks = [running[task] for task, _ in planned], [chunk for _, chunk in planned]
        tokens = sum(chunk.count for chunk in chunks)
        waits = [job.step_began(began, tokens, len(chunks)) for job in jobs]
        for job in jobs:
            self._admission.began(job.sequence)
        has_prompts = any(task.is_prefill for task, _ in planned)
        outcomes = self._run(chunks)
        seconds = time.perf_counter() - began
        prefilled = tokens - sum(chunk.logits_rows for chunk in chunks)
        found, self._found_before = self._scheduler.prefix_tokens - self._found_before, self._scheduler.prefix_tokens
        self._admission.stepped(seconds, tokens, computed=prefilled, found=found)
        self._prefilled_tokens += prefilled
        if not has_prompts:
            self._rhythm.stepped(len(chunks), seconds)
            self._scheduler.stepped(tokens, seconds)
        receive(jobs, outcomes, seconds)
        self._jobs.drop_ended()
        if self._observer is not None:
            first = [wait for wait in waits if wait is not None]
            self._observer.stepped(StepReport(time.perf_counter() - began, tokens, len(chunks), first))

    def _run(self, chunks: Seq[Chunk]) -> Seq[Tensor | Exception]:
        """Logits of each chunk, or what it failed with. A pass that fails changed nothing, so where it had several
        chunks each is tried alone: the one at fault fails, the others go on."""
        try:
            return self._runner.run(chunks)
        except EngineClosedError as error:  # what the model runs on is gone
            return [error] * len(chunks)
        except Exception as error:
            _log.warning("a forward pass over %d sequences failed: %s", len(chunks), error)
            if len(chunks) == 1:
                return [error]
        return [outcome for chunk in chunks for outcome in self._run([chunk])]

    def _fail_all(self) -> None:
        """Ends every work that is left, queued ones included."""
        while True:
            self._jobs.fail(EngineClosedError("the engine was closed"))
            try:
                message = self._inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(message, Job):
                self._jobs.add(message)
            elif message is not None:
                _call(message)


def _call(function: Callable[[], None]) -> None:
    """A defect in what somebody wants done between two steps ends nothing else."""
    try:
        function()
    except Exception:
        _log.exception("a call between two steps failed")


def _budget(runner: ModelRunner, limits: EngineLimits, threads: int) -> Budget:
    loaded = runner.loaded
    # On a CPU matrices of some tens of rows are as quick per row as larger ones.
    tokens = limits.step_tokens or (2048 if loaded.device.type == "cuda" else 24 * max(2, threads))
    ahead = limits.ahead_rows
    if ahead is None:
        ahead = _AHEAD_ROWS if loaded.device.type == "cuda" else 0
    rows = max(1, _LOGITS_BYTES // (4 * loaded.vocabulary_size))
    return Budget(tokens, rows, ahead, limits.candidates, limits.weighs_candidates)
