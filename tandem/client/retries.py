"""When a call that failed is made again: where that may help, and nothing of it was delivered or it can be resumed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import tenacity

from tandem.client.errors import BusyError, UnavailableError
from tandem.rpc.errors import UNSPECIFIED, TandemError


@dataclass(frozen=True, slots=True)
class Retries:
    """How often, and how long to wait in between.

    attempts: most calls in all to each orchestrator; 1 for no retries. Of several, the next is asked at once, and only
    when all have failed there is a wait. first_wait_seconds: doubled with every one, up to most_wait_seconds. Where the
    service says when to come back, it is never asked before that. Each wait is made up to half as long again by chance,
    so that callers that failed together do not come back together. A wait that would reach beyond the call's timeout is
    not begun: the call fails with what it failed of. For a completion that is resumed, all of this begins anew with
    each loss.
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


class Choosing(Protocol):
    """What is known of one call's attempts. places: orchestrators that they go round."""

    @property
    def places(self) -> int: ...

    def may_go_on(self, error: BaseException) -> bool:
        """Whether another attempt may help."""
        ...


def settings(retries: Retries, deadline: Deadline, choosing: Choosing) -> dict[str, Any]:
    """Arguments of a tenacity.Retrying or AsyncRetrying."""
    return {
        "retry": tenacity.retry_if_exception(choosing.may_go_on),
        "stop": lambda state: (
            state.attempt_number >= retries.attempts * choosing.places or deadline.is_before(state.upcoming_sleep)
        ),
        "wait": _wait(retries, choosing.places),
        "reraise": True,
    }


def may_help(error: BaseException) -> bool:
    """Whether trying again may: not where a busy service does not say when there will be room."""
    return isinstance(error, UnavailableError) or (isinstance(error, BusyError) and error.retry_after is not None)


def _wait(retries: Retries, places: int) -> Callable[[tenacity.RetryCallState], float]:
    def wait(state: tenacity.RetryCallState) -> float:
        rounds, on_the_way = divmod(state.attempt_number, places)
        if on_the_way:
            return 0.0  # the next has not been asked
        error = state.outcome.exception() if state.outcome is not None else None
        told = 0.0
        # Of a connection that failed nobody has said when it will be back.
        if isinstance(error, TandemError) and error.reason != UNSPECIFIED:
            told = error.retry_after or 0.0
        growing = min(retries.first_wait_seconds * 2.0 ** min(rounds - 1, 60), retries.most_wait_seconds)
        return max(told, growing) * random.uniform(1.0, 1.5)

    return wait
