"""How long completions take, by how many are under way: measured by all of them, for who has to be told before.

A token of one completion takes

    a + b n    seconds, n: completions under way for each target

since a step of the target has a part that it takes for everybody together and a part for each sequence. The line goes
through the measurements of late by least squares; where n has not varied enough to tell a from b, a guess stands in:
half of the time is b's. A completion takes its first token's time and so much for each further one.

How far off this is shows when completions end. `margin` is what their tokens took over what the line said, such that
nine of ten took no more.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

# Tokens that are remembered: older ones weigh less, by e for so many more.
_MEMORY = 2000.0
# Weight of the guess for b, as tokens at one completion more or less than the mean.
_GUESS = 20.0
# Tokens before anything is told.
_LEAST_TOKENS = 16.0
_LENGTHS, _RATIOS = 64, 64
# Of a completion, where none of its kind has ended yet.
_UNKNOWN_LENGTH = 32
_MARGINS = (1.1, 2.0)
_QUANTILE = 0.9
# Completions before their spread is believed; until then the margin is in the middle.
_LEAST_RATIOS = 8
_FIRST_MARGIN = 1.25
_FIRST_TOKENS_MEMORY = 16


@dataclass(slots=True)
class Pace:
    """Of all completions of an orchestrator."""

    first_seconds: float = 0.0
    _firsts: int = 0
    # Sums over tokens: how many, n, n squared, seconds, seconds times n.
    _tokens: float = 0.0
    _n: float = 0.0
    _nn: float = 0.0
    _seconds: float = 0.0
    _seconds_n: float = 0.0
    _lengths: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_LENGTHS))
    _ratios: deque[float] = field(default_factory=lambda: deque(maxlen=_RATIOS))

    @property
    def is_known(self) -> bool:
        return self._tokens >= _LEAST_TOKENS

    def began(self, seconds: float) -> None:
        """A completion's first token came so long after it was let in."""
        self._firsts = min(self._firsts + 1, _FIRST_TOKENS_MEMORY)
        self.first_seconds += (seconds - self.first_seconds) / self._firsts

    def add(self, n: float, tokens: int, seconds: float) -> None:
        """So many further tokens of one completion took so long, while n were under way."""
        keep = max(0.0, 1.0 - tokens / _MEMORY)
        self._tokens = self._tokens * keep + tokens
        self._n = self._n * keep + tokens * n
        self._nn = self._nn * keep + tokens * n * n
        self._seconds = self._seconds * keep + seconds
        self._seconds_n = self._seconds_n * keep + seconds * n

    def token_seconds(self, n: float) -> float:
        """Of a token of one completion. Needs `is_known`."""
        middle, level = self._n / self._tokens, self._seconds / self._tokens
        spread = max(0.0, self._nn - self._n * middle)
        together = self._seconds_n - self._seconds * middle
        guess = 0.5 * level / max(middle, 1.0)
        slope = max(0.0, (together + _GUESS * guess) / (spread + _GUESS))
        # A line through what was seen may meet 0 to the left of it; fewer never make a token free.
        return max(level + slope * (n - middle), 0.25 * level)

    def ended(self, allowed: int, tokens: int) -> None:
        """A completion that might have had `allowed` tokens came to its end after so many."""
        self._lengths.append((allowed, tokens))

    def cut_off(self, allowed: int, tokens: int) -> None:
        """The same, by its deadline: it would have had more, nobody knows how many."""
        self._lengths.append((allowed, min(allowed, 2 * tokens + 1)))

    def judged(self, seconds: float, expected: float) -> None:
        """What a completion's tokens took, and what had been expected of them when it was let in."""
        if expected > 0:
            self._ratios.append(seconds / expected)

    def length(self, allowed: int) -> float:
        """How many tokens a completion that may have `allowed` is likely to have: the mean of those that came to an end
        before, or might have had as many."""
        found = [min(tokens, allowed) for most, tokens in self._lengths if most >= allowed or tokens < most]
        return sum(found) / len(found) if found else float(min(allowed, _UNKNOWN_LENGTH))

    @property
    def margin(self) -> float:
        """Over what is expected, for who must not be late."""
        if len(self._ratios) < _LEAST_RATIOS:
            return _FIRST_MARGIN
        ratios = sorted(self._ratios)
        return min(max(ratios[int(_QUANTILE * (len(ratios) - 1))], _MARGINS[0]), _MARGINS[1])
