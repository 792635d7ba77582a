"""A circuit breaker (Nygard, "Release It!", 2007): a replica that answers questions but whose streams fail again and
again, for a model that is broken or an engine that hangs, would otherwise be chosen again and again.

Closed, it lets streams through. After three failures in a row it is open for a time: nothing is sent there. Then it
lets one stream through: if that is answered it closes, if it fails it opens for twice as long.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

_FAILURES = 3
# For how long it is open: the first time, and at most. Spread, so that orchestrators do not come back together.
_FIRST_SECONDS, _MOST_SECONDS = 1.0, 60.0
_SPREAD = (0.8, 1.2)
# A stream that was let through and has neither been answered nor failed by then is not waited for.
_TRIAL_SECONDS = 10.0


class Circuit:
    """Of one replica. clock: seconds, for tests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._life: int | None = None
        self._seconds = _FIRST_SECONDS
        self._open_until = 0.0
        self._trial_until = 0.0
        self.failures = 0  # in a row

    @property
    def is_open(self) -> bool:
        """Whether nothing is to be sent there now."""
        return self._clock() < self._open_until

    @property
    def left(self) -> float:
        """Seconds for which it is still open."""
        return max(0.0, self._open_until - self._clock())

    def allows(self) -> bool:
        """Whether one more stream may be begun."""
        now = self._clock()
        return now >= self._open_until and (self.failures < _FAILURES or now >= self._trial_until)

    def began(self) -> None:
        """A stream; the one that is let through after a pause, if there was one."""
        if self.failures >= _FAILURES:
            self._trial_until = self._clock() + _TRIAL_SECONDS

    def failed(self, life: int | None = None) -> bool:
        """A stream has; whether the circuit opens by that. life: of the replica, where it has to answer a question
        before it gets streams again: all that fail in one have failed for one reason, a lost connection for example."""
        if self.is_open or (life is not None and life == self._life):
            return False
        self._life = life
        self.failures += 1
        self._trial_until = 0.0
        if self.failures < _FAILURES:
            return False
        self._open_until = self._clock() + self._seconds * random.uniform(*_SPREAD)
        self._seconds = min(2 * self._seconds, _MOST_SECONDS)
        return True

    def succeeded(self) -> None:
        """A stream has been answered."""
        self.failures, self._life = 0, None
        self._seconds, self._open_until, self._trial_until = _FIRST_SECONDS, 0.0, 0.0
