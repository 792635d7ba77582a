"""When a call that failed is made again: only where nothing of it was delivered and trying again may help."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tenacity

from tandem.client.errors import BusyError, UnavailableError
from tandem.rpc.errors import UNSPECIFIED, TandemError


@dataclass(frozen=True, slots=True)
class Retries:
    """How often, and how long to wait in between.

    attempts: most calls in all; 1 for no retries. first_wait_seconds: doubled with every attempt, up to
    most_wait_seconds. Where the service says when to come back, it is never asked before that. Each wait is made up to
    half as long again by chance, so that callers that failed together do not come back together. A wait that would
    reach beyond the call's timeout is not begun: the call fails with what it failed of.
    """

    attempts: int = 4
    first_wait_seconds: float = 0.2
    most_wait_seconds: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {self.attempts}")
        if not 0 < self.first_wait_seconds <= self.most_wait_seconds:
            raise ValueError("first_wait_seconds must be above 0 and at most most_wait_seconds")


class Deadline:
    """When a call has to be done, over all its attempts. seconds: from now; None for never."""

    def __init__(self, seconds: float | None) -> None:
        if seconds is not None and not seconds > 0:
            raise ValueError(f"timeout must be above 0 seconds, not {seconds}")
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds; for gRPC, which takes 0 or less for what it is."""
        return None if self._end is None else self._end - time.monotonic()

    def is_before(self, seconds: float) -> bool:
        """Whether it comes within so many seconds."""
        left = self.left()
        return left is not None and left <= seconds


def settings(retries: Retries, deadline: Deadline) -> dict[str, Any]:
    """Arguments of a tenacity.Retrying or AsyncRetrying."""
    return {
        "retry": tenacity.retry_if_exception(may_help),
        "stop": lambda state: (
            state.attempt_number >= retries.attempts or deadline.is_before(state.upcoming_sleep)
        ),
        "wait": _wait(retries),
        "reraise": True,
    }


def may_help(error: BaseException) -> bool:
    """Whether trying again may: not where a busy service does not say when there will be room."""
    return isinstance(error, UnavailableError) or (isinstance(error, BusyError) and error.retry_after is not None)


def _wait(retries: Retries) -> Callable[[tenacity.RetryCallState], float]:
    growing = tenacity.wait_exponential(multiplier=retries.first_wait_seconds, max=retries.most_wait_seconds)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        told = 0.0
        # Of a connection that failed nobody has said when it will be back.
        if isinstance(error, TandemError) and error.reason != UNSPECIFIED:
            told = error.retry_after or 0.0
        return max(told, growing(state)) * random.uniform(1.0, 1.5)

    return wait
