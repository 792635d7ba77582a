"""How often the streams of completions may be opened again, so that retries do not multiply the load on a service that
fails.

A bucket of tokens, as of gRPC's retry throttling (gRFC A6) but filled by beginnings and by time: every completion that
begins adds a share of a token, every stream that is opened again takes a whole one. So retries are at most that share
of the load in the long run, and a burst, one replica lost with all that ran there, goes through at once. Some come with
time alone, so that a quiet system recovers, too.
"""

from __future__ import annotations

import asyncio
import random
import time

_SHARE = 0.2
#: Tokens that are there at the start, and the most that there ever are.
MOST = 200.0
#: Tokens that come with each second.
PER_SECOND = 10.0


class RetryBudget:
    """Of one service. May owe tokens: whoever takes one that is not there yet waits for it in turn."""

    def __init__(self, most: float = MOST, per_second: float = PER_SECOND) -> None:
        self._most = most
        self._per_second = per_second
        self._tokens = most
        self._at = time.monotonic()

    def began(self) -> None:
        """A completion."""
        self._fill(_SHARE)

    async def take(self, patience: float) -> bool:
        """One token, waited for. Returns False, at once, where it would take longer than `patience` seconds."""
        self._fill(0.0)
        wait = max(0.0, 1.0 - self._tokens) / self._per_second
        if wait > max(patience, 0.0):
            return False
        self._tokens -= 1.0
        if wait:
            try:
                await asyncio.sleep(wait * random.uniform(1.0, 1.1))
            except asyncio.CancelledError:
                self._tokens += 1.0
                raise
        return True

    def _fill(self, more: float) -> None:
        now = time.monotonic()
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._per_second + more)
        self._at = now
