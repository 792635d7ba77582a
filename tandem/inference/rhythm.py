"""Whether a step waits for those who are on their way.

Who has got the logits of a block comes back after a while with the next: a draft, a wire and a decision later. Where a
step takes longer than that, who comes a moment after it began waits for all of it, and callers that once missed each
other go on to do so: two of them get a step each in turn, where one step for both takes hardly longer than for one. So
whoever is here waits, where the others gain more by it than those here lose.

Continuous batching (Yu et al., Orca, OSDI 2022) begins a step with whoever is here, since decoding sequences never
leave; ones that are verified do, after every block.
"""

from __future__ import annotations

from collections import deque

import numpy as np

# Times away of a sequence that are remembered, and of steps that count in their mean, about.
_GAPS = 8
_STEPS = 8


class Rhythm:
    """Of one engine, on its thread. Times are seconds of one clock that never goes back."""

    def __init__(self) -> None:
        self._gaps: dict[int, deque[float]] = {}  # by sequence: how long it was away
        self._left: dict[int, float] = {}  # by sequence: since when it is
        self._step = 0.0

    def left(self, number: int, now: float) -> None:
        """A sequence has what it asked for."""
        self._left[number] = now

    def came(self, number: int, now: float) -> None:
        """It asks for more."""
        left = self._left.pop(number, None)
        if left is not None:
            self._gaps.setdefault(number, deque(maxlen=_GAPS)).append(now - left)

    def gone(self, number: int) -> None:
        """It will not come back."""
        self._left.pop(number, None)
        self._gaps.pop(number, None)

    def stepped(self, seconds: float) -> None:
        """What a step took that had no prompts in it."""
        self._step += (seconds - self._step) / (_STEPS if self._step else 1)

    def waits(self, here: int, since: float, now: float) -> float:
        """Seconds that a step for `here` works is to wait, until the next comes or so long; 0: it begins. since: it
        could have begun.

        After a wait of d those who came in it, w of them expected, need not wait until the end of the step that began
        without them: they gain w (T - d), with T for a step. Those here lose d each. All waits before a step together
        are no longer than it.
        """
        if not here or not self._left or not self._step:
            return 0.0
        waits, weights = list[float](), list[float]()
        for number, left in self._left.items():
            away = now - left
            # As long as it was before, given that it has not come yet.
            rest = [gap - away for gap in self._gaps.get(number, ()) if gap > away]
            waits += rest
            weights += [1 / max(1, len(rest))] * len(rest)
        if not waits:
            return 0.0
        order = np.argsort(waits)
        d, expected = np.asarray(waits)[order], np.cumsum(np.asarray(weights)[order])
        gains = expected * (self._step - d) - here * d
        best = int(gains.argmax())
        return float(d[best]) if gains[best] > 0 and now + d[best] <= since + self._step else 0.0
