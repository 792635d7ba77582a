"""When the caller of a request wants it done, known wherever the orchestrator works or waits for it.

gRPC ends a call at its deadline by itself; `gateway/` does the same for HTTP. This is for all that is asked of other
services meanwhile: their streams end at the same time, so that nothing is computed for a caller whose time is up, not
even where the orchestrator stands still.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_SLACK_SECONDS = 0.05


class Deadline:
    """seconds: from now; None for never."""

    def __init__(self, seconds: float | None = None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds, 0 once it is over; None where there is no deadline."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Or as good as that: whoever ends a call at its deadline does so by a clock of its own."""
        left = self.left()
        return left is not None and left < _SLACK_SECONDS


NEVER = Deadline()
#: Of the request that is being served. Tasks that are begun for it inherit it.
DEADLINE: ContextVar[Deadline] = ContextVar("deadline", default=NEVER)


@contextmanager
def due(seconds: float | None) -> Iterator[None]:
    """What runs inside is to be done within so many seconds; None for no deadline."""
    token = DEADLINE.set(Deadline(seconds))
    try:
        yield
    finally:
        DEADLINE.reset(token)
