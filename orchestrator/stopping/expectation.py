"""What is expected of a candidate by the entropy of the distribution that it is drawn from, learnt on line."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

# [ours] Nats; close together where drafts are sure of themselves, which is where blocks are long.
_KNOTS = (0.0, 0.05, 0.1, 0.2, 0.35, 0.55, 0.8, 1.1, 1.5, 2.0, 2.7, 3.6, 5.0)
# Candidates after which an old one weighs 1/e of a new one.
_MEMORY = 1000
# How many a knot without any of its own takes from the mean of all; and what is believed before any was seen.
_PRIOR_WEIGHT = 2.0
_FIRST_GUESS = 0.7
# Of a completion's own: how many expected rejections the pair's curve is worth.
_SHARED_WEIGHT = 3.0


class AcceptanceCurve:
    """Mean acceptance by entropy; a candidate between two knots counts for both by its distance from each."""

    def __init__(self) -> None:
        self._weights = [0.0] * len(_KNOTS)
        self._sums = [0.0] * len(_KNOTS)
        self._values: list[float] | None = None

    def add(self, entropy: float, acceptance: float) -> None:
        """entropy: nats. acceptance: what is expected of the candidate, 1 - TV, or what became of it, 0 or 1."""
        keep = 1 - 1 / _MEMORY
        for knot in range(len(_KNOTS)):
            self._weights[knot] *= keep
            self._sums[knot] *= keep
        for knot, share in _shares(entropy):
            self._weights[knot] += share
            self._sums[knot] += share * acceptance
        self._values = None

    @property
    def mean(self) -> float:
        """Over all candidates."""
        return (sum(self._sums) + _PRIOR_WEIGHT * _FIRST_GUESS) / (sum(self._weights) + _PRIOR_WEIGHT)

    @property
    def deviation(self) -> float:
        """Standard error of the mean."""
        mean = self.mean
        return math.sqrt(mean * (1 - mean) / (sum(self._weights) + _PRIOR_WEIGHT))

    def at(self, entropy: float) -> float:
        values = self.values()
        return sum(share * values[knot] for knot, share in _shares(entropy))

    def values(self) -> list[float]:
        """At each of `knots()`, never growing with entropy (pool adjacent violators)."""
        if self._values is None:
            mean = self.mean
            pools: list[tuple[float, float, int]] = []  # value, weight, how many knots
            for weight, total in zip(self._weights, self._sums, strict=True):
                weight += _PRIOR_WEIGHT
                pool = (total + _PRIOR_WEIGHT * mean) / weight, weight, 1
                while pools and pools[-1][0] <= pool[0]:
                    value, others, knots = pools.pop()
                    together = others + pool[1]
                    pool = (value * others + pool[0] * pool[1]) / together, together, knots + pool[2]
                pools.append(pool)
            self._values = [value for value, _, knots in pools for _ in range(knots)]
        return self._values


class OwnCurve:
    """A pair's curve, moved to what one completion has seen: its rejections over those that the pair's curve expected
    scale the chance of a rejection at every entropy."""

    def __init__(self, shared: AcceptanceCurve) -> None:
        self._shared = shared
        self._rejected = self._expected = 0.0

    def add(self, entropy: float, acceptance: float) -> None:
        self._rejected += 1 - acceptance
        self._expected += 1 - self._shared.at(entropy)
        self._shared.add(entropy, acceptance)

    @property
    def _factor(self) -> float:
        return (self._rejected + _SHARED_WEIGHT) / (self._expected + _SHARED_WEIGHT)

    @property
    def mean(self) -> float:
        return self._own(self._shared.mean)

    @property
    def mean_of_all(self) -> float:
        """Of the pair."""
        return self._shared.mean

    @property
    def hoped(self) -> float:
        """The mean and its standard error more: what is still possible."""
        return min(1.0, max(self.mean, self._shared.mean) + self._shared.deviation)

    def at(self, entropy: float) -> float:
        return self._own(self._shared.at(entropy))

    def values(self) -> list[float]:
        return [self._own(value) for value in self._shared.values()]

    def _own(self, acceptance: float) -> float:
        return max(0.0, 1 - self._factor * (1 - acceptance))


def knots() -> Sequence[float]:
    """Entropies, in nats, at which a curve has its values."""
    return _KNOTS


def _shares(entropy: float) -> tuple[tuple[int, float], ...]:
    """The knots that a candidate counts for, and how much for each."""
    above = bisect_right(_KNOTS, entropy)
    if above == 0:
        return ((0, 1.0),)
    if above == len(_KNOTS):
        return ((above - 1, 1.0),)
    left, right = _KNOTS[above - 1], _KNOTS[above]
    share = (entropy - left) / (right - left)
    return (above - 1, 1 - share), (above, share)
