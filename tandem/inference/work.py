"""What an engine works on, and how it tells the task that awaits it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

from torch import Tensor

from tandem.inference.scheduler import Task
from tandem.inference.sequence import Sequence

_log = logging.getLogger(__name__)

# Items that may wait for their reader. One that does not read, or stands still, gets no more steps.
_MOST_UNREAD = 64


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one work: waiting for its first step, then steps that it took part in and what it made of them.

    step_tokens, step_sequences: sums over those steps of all tokens that they took in and of all sequences that they
    served, not only the work's own.
    """

    queue_microseconds: int = 0
    compute_microseconds: int = 0
    steps: int = 0
    step_tokens: int = 0
    step_sequences: int = 0

    def since(self, before: Timing) -> Timing:
        """What was added after `before`."""
        return Timing(
            self.queue_microseconds - before.queue_microseconds,
            self.compute_microseconds - before.compute_microseconds,
            self.steps - before.steps,
            self.step_tokens - before.step_tokens,
            self.step_sequences - before.step_sequences,
        )


class Work(Protocol):
    """What is to be done with one sequence. Its methods run on the engine's thread."""

    sequence: Sequence

    def next_block(self) -> tuple[Seq[int], int] | tuple[Seq[int], int, Seq[int]] | None:
        """Tokens to feed and how many of the last rows of logits are wanted; None when finished. Of candidates of a
        tree also the parents, see `runner.Block`."""
        ...

    @classmethod
    def receive_all(cls, works: Seq[Self], logits: Seq[Tensor]) -> Seq[Any]:
        """Takes the logits of all works of this class in one step, so that they are computed with together.

        logits: fp32 [rows, V] for each work, views of one tensor where the works lie side by side. Returns an entry
        for each work: what `stream`'s reader is given, None for nothing, an exception to end that work alone.
        If it raises, no work may have changed: the engine then calls it for each work by itself.
        """
        ...


@runtime_checkable
class CuttableWork(Work, Protocol):
    """A work whose blocks end with candidates: an engine with a budget of them runs the best ones of all works."""

    def scores(self) -> Seq[float]:
        """Of the candidates of the block that `next_block` has just given, its last tokens: larger ones go first. Never
        rising within a block."""
        ...

    def cut(self, count: int) -> None:
        """Only the first `count` candidates of that block have been run, and the others are not part of it: there are
        as many rows of logits fewer. Called before `receive_all`, where not all were."""
        ...


class SingleWork:
    """Base of works that take their logits one by one, through `receive`."""

    def receive(self, logits: Tensor) -> Any:
        """Takes fp32 logits [rows, V]; returns what `stream`'s reader is given, None for nothing."""
        raise NotImplementedError

    @classmethod
    def receive_all(cls, works: Seq[Self], logits: Seq[Tensor]) -> Seq[Any]:
        results: list[Any] = []
        for work, rows in zip(works, logits, strict=True):
            try:
                results.append(work.receive(rows))
            except Exception as error:
                results.append(error)
        return results


class AheadWork(Work, Protocol):
    """What nobody has asked for yet, on a branch of a sequence. It runs where asked works leave room, and ends without
    a word: finished, with its branch closed, or failed.

    worth: who goes first of such works, larger before smaller; not negative.
    """

    worth: float

    def stopped(self, error: Exception) -> None:
        """It has failed; also where its branch had to give way. On the engine's thread."""
        ...


class Job:
    """A work under way and the task that awaits it.

    task: its block that is being run, None between blocks; length_before: of its sequence, without that block.
    submitted: when, by `time.perf_counter()`.
    """

    worth: float | None = None  # of what nobody has asked for

    def __init__(self, work: Work, loop: asyncio.AbstractEventLoop | None) -> None:
        """loop: of the task; None where there is none."""
        self.work = work
        self.cancelled = False
        self.ended = False
        self.task: Task | None = None
        self.length_before = 0
        self._candidates = 0  # of the block
        self.items: asyncio.Queue[tuple[Any, Timing] | BaseException | None] = asyncio.Queue()
        self._sent = self._taken = 0  # each counted on one thread
        self._loop = loop
        self.submitted = time.perf_counter()
        self._started: float | None = None
        self._compute = 0.0
        self._steps = self._step_tokens = self._step_sequences = 0

    @property
    def sequence(self) -> Sequence:
        return self.work.sequence

    @property
    def is_unread(self) -> bool:
        """Whether its reader has much to read first."""
        return self._sent - self._taken >= _MOST_UNREAD

    async def take(self) -> tuple[Any, Timing] | BaseException | None:
        """What it sends next; None at its end."""
        item = await self.items.get()
        self._taken += 1
        return item

    def begin(self, token_ids: Seq[int], rows: int, parents: Seq[int] = ()) -> None:
        """Starts on a block of its work."""
        self.length_before = self.sequence.length
        self.sequence.extend(token_ids, parents)
        scores = list(self.work.scores()) if isinstance(self.work, CuttableWork) else []
        self._candidates = len(scores)
        self.task = Task(self.sequence, rows, self.worth, scores)

    def complete(self) -> None:
        """The block has been run."""
        if self.task is not None and len(self.task.scores) < self._candidates:
            assert isinstance(self.work, CuttableWork)
            self.work.cut(len(self.task.scores))
        self.task = None

    def give_up(self, error: Exception) -> None:
        """The block could not be run; its sequence is as if it had never been fed."""
        self.abandon()
        self.end(error)

    def abandon(self) -> None:
        """Nobody awaits it any more. A block whose logits it has not taken is as if it had never been fed."""
        if self.task is not None:
            self.sequence.truncate(self.length_before, keep=True)  # a caller may come back with it
        self.ended = True

    def step_began(self, at: float, tokens: int, sequences: int) -> float | None:
        """tokens, sequences: of the whole step. Returns the seconds since the submission, where it is the first."""
        is_first = self._started is None
        if self._started is None:
            self._started = at
        self._steps += 1
        self._step_tokens += tokens
        self._step_sequences += sequences
        return at - self.submitted if is_first else None

    def computed(self, seconds: float) -> None:
        self._compute += seconds

    def timing(self) -> Timing:
        queued = 0.0 if self._started is None else self._started - self.submitted
        return Timing(
            round(queued * 1e6), round(self._compute * 1e6), self._steps, self._step_tokens, self._step_sequences
        )

    def end(self, error: Exception | None) -> None:
        """The work is over: finished, or failed with `error`."""
        self.ended = True
        self.send(error)

    def send(self, item: tuple[Any, Timing] | BaseException | None) -> None:
        """From the engine's thread to the awaiting task, whose loop may be gone by now."""
        self._sent += 1
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(self.items.put_nowait, item)
        except RuntimeError:
            _log.debug("the event loop of a work has been closed")


class AheadJob(Job):
    """A work that nobody awaits."""

    def __init__(self, work: AheadWork) -> None:
        super().__init__(work, None)
        self._ahead = work
        self.worth = work.worth

    def begin(self, token_ids: Seq[int], rows: int, parents: Seq[int] = ()) -> None:
        self.worth = self._ahead.worth
        super().begin(token_ids, rows, parents)

    def step_began(self, at: float, tokens: int, sequences: int) -> float | None:
        super().step_began(at, tokens, sequences)
        return None  # nobody has waited for it

    def send(self, item: tuple[Any, Timing] | BaseException | None) -> None:
        if isinstance(item, Exception):
            self._ahead.stopped(item)
