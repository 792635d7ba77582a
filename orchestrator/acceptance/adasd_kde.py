"""AdaSD version 2 (arXiv 2512.11280v2): accept with the posterior probability of acceptance.

    P(A|d) = f_A(d) P(A) / (f_A(d) P(A) + f_R(d) P(R))

f_A, f_R: kernel density estimates over the distances of past accepted and rejected tokens. Samples with d
exactly 0 or 1 are left out. Not published, hence [ours]: Gaussian kernel and Silverman's bandwidth
(`density.py`); priors are the counts of the samples that entered the estimates; d = 0 accepts, d = 1 rejects;
the cold start lasts until both groups hold `min_samples`, those left out not counted, so neither estimate is
ever empty; a token that passes the exact test stays accepted. Over a bracket P(A|d) need not be monotone: it
is taken at points half a bandwidth apart, and a bracket of more than 64 such steps counts as open.

The charge is P(A|d) TV(p, q), the exact distance of the position's law p + P(A|d) (q - p) from p.
"""

from __future__ import annotations

import math

from orchestrator.acceptance.base import Bracket, Sample
from orchestrator.acceptance.density import Density
from orchestrator.acceptance.distance_rule import DistanceRule
from orchestrator.acceptance.lossy import BUDGET
from orchestrator.options import Option

_MOST_STEPS = 64


class AdaSdKde(DistanceRule):
    """min_samples: samples that each group needs before the estimates act, at least 1."""

    name = "adasd-kde"
    options = (BUDGET, Option("min_samples", least=1, kind=int))

    def __init__(self, *, greedy: bool, lossy_budget: float | None = None, min_samples: int = 5) -> None:
        super().__init__(greedy=greedy, lossy_budget=lossy_budget)
        self._min_samples = min_samples
        self._accepted = Density()
        self._rejected = Density()

    def probability(self, distance: float) -> float:
        """P(A|d) in [0, 1]; the cold start must be over."""
        if distance <= 0:
            return 1.0
        if distance >= 1:
            return 0.0
        # In logarithms: far from all samples both densities are 0 in floating point, and their ratio 0/0.
        log_odds = self._accepted.log_density(distance) - self._rejected.log_density(distance)
        log_odds += math.log(self._accepted.count / self._rejected.count)
        if log_odds < 0:
            odds = math.exp(log_odds)
            return odds / (1 + odds)
        return 1 / (1 + math.exp(-log_odds))

    def _acts(self) -> bool:
        return min(self._accepted.count, self._rejected.count) >= self._min_samples

    def _chances(self, distance: Bracket) -> list[float]:
        if distance.is_exact:
            return [self.probability(distance.lower)]
        width = distance.upper - distance.lower
        steps = math.ceil(2 * width / min(self._accepted.bandwidth, self._rejected.bandwidth))
        if steps > _MOST_STEPS:
            return [0.0, 1.0]
        inner = [distance.lower + width * index / steps for index in range(1, steps)]
        return [self.probability(point) for point in (distance.lower, *inner, distance.upper)]

    def _learn(self, sample: Sample) -> None:
        if 0 < sample.distance < 1:
            (self._accepted if sample.accepted else self._rejected).add(sample.distance)
