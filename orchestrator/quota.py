"""What an API key uses of its limits. Belongs to one event loop, so that nothing comes between a check and its mark.

Tokens are counted by a bucket that holds `tokens_per_minute` and is filled again at that rate. A prompt has to fit what
is in it and is taken out at once; tokens are taken out as they are generated. A request that has begun is never cut or
slowed: the bucket then goes below empty, by at most what the requests under way may generate, and the next prompt is
refused until it has been filled up to it. So a key never has more than its rate for long, and never more beyond it than
`concurrent` times `max_tokens`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tandem.keys import KeyLimits
from tandem.rpc.errors import DEFAULT_RETRY_SECONDS, TandemError


class Quota:
    """What is used now. Limits come with each call: the file of keys may have changed them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds."""
        self.under_way = 0
        self._clock = clock
        self._missing = 0.0  # tokens that the bucket lacks to be full
        self._looked = clock()

    @contextmanager
    def completions(self, count: int, limits: KeyLimits) -> Iterator[None]:
        """While `count` completions are under way. Raises TandemError RATE_LIMIT_EXCEEDED."""
        most = limits.concurrent
        if most is not None and self.under_way + count > most:
            fits = count <= most
            told = f"this key may have {most} completions under way at once"
            raise TandemError.rate_limit_exceeded(
                "concurrent", most,
                f"{told}, and has {self.under_way}" if fits else f"{told}; the request asks for {count}",
                retry_after=DEFAULT_RETRY_SECONDS if fits else None,
            )  # fmt: skip
        self.under_way += count
        try:
            yield
        finally:
            self.under_way -= count

    def take_prompt(self, tokens: int, limits: KeyLimits) -> None:
        """Raises TandemError RATE_LIMIT_EXCEEDED for a prompt that does not fit what is left."""
        most = limits.tokens_per_minute
        if most is None:
            return
        self._fill(most)
        over = self._missing + tokens - most
        if over > 0:
            fits = tokens <= most
            told = f"this key has {most} tokens a minute"
            raise TandemError.rate_limit_exceeded(
                "tokens_per_minute", most,
                f"{told}, and {max(0, int(most - self._missing))} are left; the prompt has {tokens}"
                if fits else f"{told}, and the prompt has {tokens}",
                retry_after=over * 60 / most if fits else None,
            )  # fmt: skip
        self._missing += tokens

    def take_generated(self, tokens: int, limits: KeyLimits) -> None:
        """Whatever is left: they are there."""
        if limits.tokens_per_minute is not None:
            self._fill(limits.tokens_per_minute)
            self._missing += tokens

    def _fill(self, per_minute: int) -> None:
        now = self._clock()
        self._missing = max(0.0, self._missing - (now - self._looked) * per_minute / 60)
        self._looked = now
