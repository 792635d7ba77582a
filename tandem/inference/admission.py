"""Which sequences an engine takes: bounded in number, and none that clearly cannot begin before its caller's deadline.

How long a sequence waits for its first token is estimated from below: only the prompts that the scheduler runs before
its own count (those of a larger priority; of the same one those that end sooner), only as much of them as is computed
of prompts of late (the rest is found in the cache), at the pace of steps that prompts filled. What the sequence itself
needs counts in the same way. Even then only one whose estimate is twice its time is refused: an estimate that is wrong
must not turn away who could have been served.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from tandem.inference.sequence import Sequence

_RETRY_SECONDS = (0.5, 30.0)
# Of the estimate, what the wait is sure to exceed.
_SURE = 0.5
# New measurements of the pace weigh so much.
_WEIGHT = 0.1
# Tokens of prompts, computed or found, after which what was seen before weighs a half.
_MEMORY = 65536
# A step with so large a share of its budget shows the pace of prompts; what smaller ones take is mostly not theirs.
_FULL = 0.5


class EngineFullError(Exception):
    """The engine takes no more sequences now. retry_after: seconds after which it may. limit: what is reached:
    `max_sessions`, `max_queue`, or `deadline`, the caller's own."""

    def __init__(self, message: str, retry_after: float, limit: str) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.limit = limit


class DeadlinePassedError(Exception):
    """Whoever waited for the work does not wait any more."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """max_sequences: open ones. max_queue: open ones of which nothing has been run yet. step_tokens: tokens of a step
    that prompts may fill up; None for 2,048 on CUDA and 24 per thread on a CPU, which keeps such a step short.
    ahead_rows: tokens of a step up to which it is filled with what nobody has asked for; None for 16 on CUDA and none
    on a CPU, whose time others may want. candidates: of verify blocks in a step, over all sequences; 0 for
    no bound. weighs_candidates: whether they are bounded by what they cost of measured steps instead."""

    max_sequences: int = 256
    max_queue: int = 64
    step_tokens: int | None = None
    ahead_rows: int | None = None
    candidates: int = 0
    weighs_candidates: bool = False


class Admission:
    """Of one engine. Asked on the event loop, told of steps on the engine's thread."""

    def __init__(self, limits: EngineLimits, step_tokens: int) -> None:
        """step_tokens: what prompts may fill of a step."""
        self.limits = limits
        self._step_tokens = step_tokens
        self._open: dict[Sequence, int] = {}  # with the tokens that it was opened for
        self._queued: set[Sequence] = set()
        self._token_seconds = 0.0  # what a token of a step takes, of late
        self._full_token_seconds: float | None = None  # the same of steps that prompts filled
        self._computed = self._found = 0.0  # tokens of prompts, of late

    @property
    def sequences(self) -> int:
        """Open ones."""
        return len(self._open)

    @property
    def queued(self) -> int:
        """Open ones of which nothing has been run yet."""
        return len(self._queued)

    def check(self, priority: int, tokens: int, within: float | None) -> None:
        """Raises EngineFullError where a sequence of so many tokens is not to be opened.

        within: seconds in which its first token has to come; None where nobody has said so.
        """
        limits = self.limits
        if self.sequences >= limits.max_sequences:
            told = f"all {limits.max_sequences} sequences are taken"
            raise EngineFullError(told, self._retry_after(), "max_sessions")
        if self.queued >= limits.max_queue:
            told = f"{limits.max_queue} sequences wait for their first step"
            raise EngineFullError(told, self._retry_after(), "max_queue")
        if within is None:
            return
        wait = self.estimate(priority, tokens)
        if _SURE * wait > within:
            told = f"the first token takes about {wait:.3g} s, and its caller waits for {within:.3g} s"
            raise EngineFullError(told, max(self._retry_after(), wait - within), "deadline")

    def add(self, sequence: Sequence, tokens: int) -> None:
        self._open[sequence] = tokens
        self._queued.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        self._open.pop(sequence, None)
        self._queued.discard(sequence)

    def estimate(self, priority: int, tokens: int) -> float:
        """Seconds to the first token of such a sequence, its own prompt included; 0 where nothing is known yet."""
        if self._full_token_seconds is None:
            return 0.0
        before = 0
        for other, left in self._missing():
            rank = -other.rank[0]
            if rank > priority or (rank == priority and left <= tokens):
                before += left
        return (before + tokens) * self._computed_share * self._full_token_seconds

    def began(self, sequence: Sequence) -> None:
        """A step with something of it."""
        self._queued.discard(sequence)

    def stepped(self, seconds: float, tokens: int, *, computed: int, found: int) -> None:
        """computed, found: tokens of prompts that the step has computed, and that were found in the cache since the
        one before."""
        pace = seconds / tokens
        self._token_seconds += (pace - self._token_seconds) * (_WEIGHT if self._token_seconds else 1)
        if computed and tokens >= _FULL * self._step_tokens:
            before = self._full_token_seconds
            self._full_token_seconds = pace if before is None else before + (pace - before) * _WEIGHT
        self._computed += computed
        self._found += found
        if self._computed + self._found > _MEMORY:
            self._computed, self._found = self._computed / 2, self._found / 2

    @property
    def _computed_share(self) -> float:
        seen = self._computed + self._found
        return self._computed / seen if seen else 1.0

    def _missing(self) -> list[tuple[Sequence, int]]:
        """Tokens that each open sequence has still to be run, as far as is known; the engine's thread goes on."""
        found = []
        for sequence, told in tuple(self._open.items()):
            missing = sequence.missing
            found.append((sequence, max(told, missing) if sequence in self._queued else missing))
        return found

    def _retry_after(self) -> float:
        """About as long as what is waiting takes."""
        missing = sum(left for _, left in self._missing())
        return min(max(missing * self._token_seconds, _RETRY_SECONDS[0]), _RETRY_SECONDS[1])


def deadline(within: float | None) -> float:
    """Of `time.monotonic()`; infinite where there is none."""
    return float("inf") if within is None else time.monotonic() + within
