"""How long steps of a model take, by the tokens that they take in: measured while it serves."""

from __future__ import annotations

import math
import operator
from bisect import bisect_left
from dataclasses import dataclass, field

# [ours] What is remembered of a size of step: the pace changes within seconds, one measurement is off by a third.
_MEMORY = 32
# Steps after which a size that did not occur since weighs 1/e: what it took was under another load.
_AGE = 500
# Neighbours in size share a place: 1, 2, 3, 4, 5, 6, 7-8, 9-10 tokens and so on.
_PLACE = math.log(1.2)


@dataclass(slots=True)
class Recent:
    """Mean of the last measurements, newer ones weighing more; None before the first."""

    value: float | None = None
    count: int = 0
    memory: int = _MEMORY

    def add(self, value: float) -> None:
        self.count = min(self.count + 1, self.memory)
        self.value = value if self.value is None else self.value + (value - self.value) / self.count

    def or_else(self, value: float) -> float:
        return value if self.value is None else self.value


class StepTimes:
    """Seconds of a step by the tokens that it takes in: a line, and where measurements leave it by more than their
    noise, they.

    What differs from the line is taken for as much of the truth as its noise leaves likely (the positive part of James
    and Stein's estimator, 1961): two sizes of step that differ by a few percent would otherwise decide lengths.
    Where only one size is known the guess is the best that can be: larger steps cost the same, smaller ones in
    proportion. So what was never tried looks good, is tried, and is known.
    """

    def __init__(self) -> None:
        self._places: dict[int, _Place] = {}
        self._steps = 0
        self._variance = Recent()  # of one measurement, over the square of its mean
        self._known: _Curve | None = None

    def add(self, tokens: float, seconds: float) -> None:
        self._steps += 1
        place = self._places.setdefault(round(math.log(tokens) / _PLACE), _Place())
        if place.seconds.value:
            # Its mean has the noise of `count` measurements, the difference that of one more.
            count = place.seconds.count
            self._variance.add((seconds / place.seconds.value - 1) ** 2 * count / (count + 1))
        place.tokens.add(tokens)
        place.seconds.add(seconds)
        place.last = self._steps
        self._known = None

    @property
    def is_known(self) -> bool:
        return bool(self._places)

    def __call__(self, tokens: float) -> float:
        """Needs one measurement."""
        if self._known is None:
            points = [self._places[place].point(self._steps) for place in sorted(self._places)]
            self._known = _Curve.through(points, self._variance.or_else(0.0))
        return self._known(tokens)


@dataclass(slots=True)
class _Place:
    """Steps of about one size. last: number of the last one, of all steps."""

    tokens: Recent = field(default_factory=Recent)
    seconds: Recent = field(default_factory=Recent)
    last: int = 0

    def point(self, steps: int) -> tuple[float, float, float]:
        """Mean size, mean time, and how many measurements they are worth after so many steps of all sizes."""
        assert self.tokens.value is not None and self.seconds.value is not None
        worth = self.seconds.count * math.exp((self.last - steps) / _AGE)
        return self.tokens.value, self.seconds.value, max(worth, 1e-6)  # never 0, however long ago


@dataclass(frozen=True, slots=True)
class _Curve:
    """Knots, growing in size and never falling in time; `slope` beyond the last. Below the first, `slope` where there
    are others, in proportion to size where there are not."""

    sizes: list[float]
    times: list[float]
    slope: float

    @classmethod
    def through(cls, points: list[tuple[float, float, float]], variance: float) -> _Curve:
        """points: size, mean time and how many measurements they are worth. variance: of one, relative."""
        sizes, times = [size for size, _, _ in points], [time for _, time, _ in points]
        counts = [count for _, _, count in points]
        total = sum(counts)
        middle, level = (sum(map(operator.mul, values, counts)) / total for values in (sizes, times))
        spread = sum(count * (size - middle) ** 2 for size, count in zip(sizes, counts, strict=True))
        together = sum(count * (size - middle) * (time - level) for size, time, count in points)
        slope = max(0.0, together / spread) if spread else 0.0
        least, found = min(times), []
        for size, time, count in points:
            # A steep line falls below 0 before the smallest size.
            line = max(level + slope * (size - middle), least)
            noise, residual = variance * time * time / count, time - line
            found.append(line + residual * (1 - noise / residual**2) if residual**2 > noise else line)
        return cls(sizes, _never_falling(found, counts), slope)

    def __call__(self, tokens: float) -> float:
        above = bisect_left(self.sizes, tokens)
        if above == 0:
            first = self.sizes[0]
            if len(self.sizes) == 1:
                return self.times[0] * min(1.0, tokens / first)
            return max(self.times[0] - self.slope * (first - tokens), self.times[0] * tokens / first)
        if above == len(self.sizes):
            return self.times[-1] + self.slope * (tokens - self.sizes[-1])
        left, right = self.sizes[above - 1], self.sizes[above]
        share = (tokens - left) / (right - left)
        return self.times[above - 1] * (1 - share) + self.times[above] * share


def _never_falling(values: list[float], weights: list[float]) -> list[float]:
    """The closest that never falls (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []  # value, weight, how many
    for value, weight in zip(values, weights, strict=True):
        pool = value, weight, 1
        while pools and pools[-1][0] >= pool[0]:
            before, others, many = pools.pop()
            together = others + pool[1]
            pool = (before * others + pool[0] * pool[1]) / together, together, many + pool[2]
        pools.append(pool)
    return [value for value, _, many in pools for _ in range(many)]
