"""Intervals of 95 %: by bootstrap for means (Efron, 1979), by Wilson's score for shares (Wilson, 1927)."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_RESAMPLES = 2000
_Z = statistics.NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate between the ends of its interval of 95 %."""

    low: float
    middle: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.low:.2f} to {self.high:.2f})"

    def holds(self, value: float) -> bool:
        """Whether the interval contains `value`: the estimate does not differ from it by more than noise."""
        return self.low <= value <= self.high


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers, at least one."""
    return math.exp(sum(map(math.log, values)) / len(values))


def bootstrap(
    values: Sequence[float], statistic: Callable[[Sequence[float]], float] = statistics.fmean
) -> Interval:
    """Of a statistic of independent values, at least one: the middle 95 % of it over resamples. Always the same."""
    source = random.Random(0)
    found = sorted(statistic(source.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    edge = round(_RESAMPLES * 0.025)
    return Interval(found[edge], statistic(values), found[-edge - 1])


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Geometric mean of the ratios, pair by pair."""
    return bootstrap([one / other for one, other in zip(ours, theirs, strict=True)], geometric_mean)


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Mean of the differences, pair by pair."""
    return bootstrap([one - other for one, other in zip(ours, theirs, strict=True)])


def share(hits: int, total: int) -> Interval:
    """Of `hits` among `total` independent trials, at least one."""
    estimate, weight = hits / total, _Z * _Z / total
    middle = (estimate + weight / 2) / (1 + weight)
    half = _Z * math.sqrt(estimate * (1 - estimate) / total + weight / (4 * total)) / (1 + weight)
    return Interval(max(0.0, middle - half), estimate, min(1.0, middle + half))
