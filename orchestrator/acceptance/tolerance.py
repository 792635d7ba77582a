"""A tolerance on the ratio test (EARS, arXiv 2512.13194): a candidate that failed by a little of chance is let through
where the target is uncertain.

    accept iff u < p(x)/q(x) + tau,    tau = tolerance (1 - max p)

The u is the ratio test's own. tau is nothing where the target is sure, and so at temperature 0, where p is one-hot in
the sense of the test: the rule is the greedy match there, and lossless. The default of 0.3 is that of the authors'
example for their implementation.

Charge: as u is uniform, c(x) in the sense of `target_rule.py` is tau / (1 - p(x)/q(x)), at most 1; what the law has too
much at x is then min(tau q(x), q(x) - p(x)), and min(tau, TV(p, q)) bounds the sum [ours].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.acceptance.base import Position
from orchestrator.acceptance.lossy import BUDGET, total_variation
from orchestrator.acceptance.target_rule import Offer, TargetRule, numbers
from orchestrator.options import Option


class Tolerance(TargetRule):
    """tolerance: in [0, 1]; 0 accepts nothing more than the exact rule."""

    name = "tolerance"
    options = (Option("tolerance", least=0, most=1), BUDGET)

    def __init__(self, *, greedy: bool, tolerance: float = 0.3, lossy_budget: float | None = None) -> None:
        super().__init__(greedy=greedy, lossy_budget=lossy_budget)
        self._tolerance = tolerance

    @property
    def lossy(self) -> bool:
        return not self._greedy and self._tolerance > 0 and super().lossy

    def _offer(self, block: Sequence[Position], index: int) -> Offer:
        position = block[index]
        tau = self._tolerance * max(0.0, 1 - math.exp(numbers(position).max_log_p))
        # 0 at temperature 0 where it is not 1. Then, and where nothing of p is left, u was not drawn.
        passes = 0 < position.acceptance and position.u < position.acceptance + tau
        return Offer(passes, min(tau, total_variation(position)))
