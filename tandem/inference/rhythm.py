"""Whether a step waits for those who are on their way.

Who has got the logits of a block comes back after a while with the next: a draft, a wire and a decision later. Where a
step takes longer than that, who comes a moment after it began waits for all of it, and callers that once missed each
other go on to do so: two of them get a step each in turn, where one step for both takes hardly longer than for one. So
a step waits where more works a second come of it.

Continuous batching (Yu et al., Orca, OSDI 2022) begins a step with whoever is here, since decoding sequences never
leave; ones that are verified do, after every block.
"""

from __future__ import annotations

from collections import deque

import numpy as np

# Times away of a sequence that are remembered, and steps that count in what is known of them, about.
_GAPS = 8
_STEPS = 32
# Variance of their works from which on steps tell what a work costs.
_LEAST_VARIANCE = 0.05


class Rhythm:
    """Of one engine, on its thread. Times are seconds of `time.perf_counter()`."""

    def __init__(self) -> None:
        self._gaps: dict[int, deque[float]] = {}  # by sequence: how long it was away
        self._left: dict[int, float] = {}  # by sequence: since when it is
        # Means over steps: works, seconds, works squared, works times seconds.
        self._means: np.ndarray | None = None

    def left(self, number: int, now: float) -> None:
        """A sequence has what it asked for."""
        self._left[number] = now

    def came(self, number: int, at: float) -> None:
        """It asked for more. at: when, which may be during a step."""
        left = self._left.pop(number, None)
        if left is not None:
            self._gaps.setdefault(number, deque(maxlen=_GAPS)).append(max(0.0, at - left))

    def gone(self, number: int) -> None:
        """It will not come back."""
        self._left.pop(number, None)
        self._gaps.pop(number, None)

    def stepped(self, works: int, seconds: float) -> None:
        """What a step took that had no prompts in it."""
        found = np.array([works, seconds, works * works, works * seconds], dtype=np.float64)
        self._means = found if self._means is None else self._means + (found - self._means) / _STEPS

    @property
    def fixed(self) -> float:
        """Seconds that a step takes whatever is in it, by a line through those that were; 0 while nothing is known."""
        if self._means is None:
            return 0.0
        works, seconds, squares, products = self._means.tolist()
        variance = squares - works**2
        of_each = max(0.0, (products - works * seconds) / variance) if variance > _LEAST_VARIANCE else 0.0
        return max(0.0, seconds - of_each * works)

    def waits(self, here: int, since: float, now: float) -> float:
        """Seconds that a step for `here` works is to wait, until the next comes or so long; 0: it begins. since: it
        could have begun.

        A step at once serves h works in a + h c, with a fixed part and one of each work. After a wait of d it serves w
        more, as many as are expected by then, in d + a + (h + w) c: more a second where (h + w) / (a + d) > h / a. The
        wait is the best by that, and all before a step together are no longer than the fixed part.
        """
        fixed = self.fixed if here and self._left else 0.0
        if not fixed:
            return 0.0
        waits, weights = list[float](), list[float]()
        for number, left in self._left.items():
            away = now - left
            # As long as it was before, given that it has not come yet.
            rest = [gap - away for gap in self._gaps.get(number, ()) if gap > away]
            in_time = [wait for wait in rest if now + wait <= since + fixed]
            waits += in_time
            weights += [1 / len(rest)] * len(in_time) if rest else []
        if not waits:
            return 0.0
        order = np.argsort(waits)
        d, expected = np.asarray(waits)[order], np.cumsum(np.asarray(weights)[order])
        rates = (here + expected) / (fixed + d)
        best = int(rates.argmax())
        return float(d[best]) if rates[best] > here / fixed else 0.0
