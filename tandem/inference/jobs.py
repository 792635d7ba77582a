"""The works that an engine has under way: which of them have tokens to run, and what they make of a step's logits. All
of it runs on the engine's thread."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from typing import Any

from torch import Tensor

from tandem.inference.admission import DeadlinePassedError
from tandem.inference.rhythm import Rhythm
from tandem.inference.runner import Block, ModelRunner
from tandem.inference.scheduler import Task
from tandem.inference.sequence import Sequence, SequenceClosedError
from tandem.inference.work import Job, Work

_log = logging.getLogger(__name__)


class Jobs:
    """From the oldest to the youngest. runner: checks what they feed. rhythm: told whose works come and go."""

    def __init__(self, runner: ModelRunner, rhythm: Rhythm) -> None:
        self._runner = runner
        self._rhythm = rhythm
        self._jobs: list[Job] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    @property
    def asked(self) -> int:
        """Those that somebody awaits."""
        return sum(job.worth is None for job in self._jobs)

    @property
    def are_unread(self) -> bool:
        """Whether all that there is to do waits for its readers."""
        return bool(self._jobs) and all(job.is_unread for job in self._jobs)

    def add(self, job: Job) -> None:
        self._jobs.append(job)
        if job.worth is None:
            self._rhythm.came(job.sequence.number, job.submitted)

    def drop_ended(self) -> None:
        left = [job for job in self._jobs if not job.ended]
        if len(left) == len(self._jobs):
            return
        for job in self._jobs:
            if job.ended and job.worth is None and not job.sequence.closed:
                self._rhythm.left(job.sequence.number, time.perf_counter())
        self._jobs = left

    def give_up(self, error: Exception) -> None:
        """All of them; see `Job.give_up`."""
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.give_up(error)

    def fail(self, error: Exception) -> None:
        """All of them, without a look at their sequences: nothing is run any more."""
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.send(error)

    def worth_least_ahead(self, most: int) -> Job | None:
        """Where more than `most` that nobody awaits are under way: the one that is worth least."""
        ahead = [job for job in self._jobs if job.worth is not None and not job.sequence.closed]
        return min(ahead, key=_worth) if len(ahead) > most else None

    def least_worth(self, rows: int) -> float:
        """What one that nobody awaits has to be worth to be among the first `rows`; infinite where there are none."""
        if not rows:
            return math.inf
        worths = sorted((_worth(job) for job in self._jobs if not job.sequence.closed), reverse=True)
        return worths[rows - 1] if len(worths) >= rows else 0.0

    def tasks(self) -> dict[Task, Job]:
        """Those that have tokens to run. Those that wait for an older one on the same sequence, or for their reader,
        are not among them, those that are over have left."""
        running: dict[Task, Job] = {}
        busy: set[Sequence] = set()
        now = time.monotonic()
        for job in self._jobs:
            if job.cancelled:
                job.abandon()
            elif job.sequence.deadline <= now:
                job.give_up(DeadlinePassedError("the caller's deadline has passed"))
            elif job.sequence not in busy:
                if job.task is None and not job.is_unread:
                    self._next_block(job)
                elif job.sequence.closed:
                    job.end(SequenceClosedError("the sequence is closed"))
                if not job.ended:
                    busy.add(job.sequence)
                    if job.task is not None:
                        running[job.task] = job
        self.drop_ended()
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
        job.begin(block.token_ids, block.logits_rows, block.parents)
        job.computed(time.perf_counter() - began)


def receive(jobs: Seq[Job], outcomes: Seq[Tensor | Exception], seconds: float) -> None:
    """Hands a step's logits, or what a chunk failed with, to the works whose blocks are complete, those of one class
    together. seconds: that the step took."""
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


def _received(works: Seq[Work], logits: Seq[Tensor]) -> Seq[Any]:
    """What the works, all of one class, made of their logits. One that raises is told from the others by itself."""
    try:
        return type(works[0]).receive_all(works, logits)
    except Exception as error:
        if len(works) == 1:
            return [error]
    return [item for work, rows in zip(works, logits, strict=True) for item in _received([work], [rows])]


def _worth(job: Job) -> float:
    return math.inf if job.worth is None else job.worth
