"""Typical acceptance (Medusa, arXiv 2401.10774): let through what is not too unlikely for an uncertain
target.

    accept iff p(x) > min(eps, delta exp(-H(p))),    eps = 0.09, delta = 0.3, H in nats

The more entropy the target has, the less a token needs: exp(-H) is the probability of each of as many equally likely
tokens. [ours]: what the exact test accepts stays accepted (the paper accepts by this test alone, and the first token
always); a rejection is corrected by the exact rule's residual.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.acceptance.base import Position
from orchestrator.acceptance.lossy import BUDGET, total_variation
from orchestrator.acceptance.target_rule import Offer, TargetRule, numbers
from orchestrator.options import Option


class Typical(TargetRule):
    """epsilon: in [0, 1]. delta: not negative."""

    name = "typical"
    options = (Option("epsilon", least=0, most=1), Option("delta", least=0), BUDGET)

    def __init__(
        self, *, greedy: bool, epsilon: float = 0.09, delta: float = 0.3, lossy_budget: float | None = None
    ) -> None:
        super().__init__(greedy=greedy, lossy_budget=lossy_budget)
        self._epsilon = epsilon
        self._delta = delta

    def _offer(self, block: Sequence[Position], index: int) -> Offer:
        found = numbers(block[index])
        least = min(self._epsilon, self._delta * math.exp(-found.entropy))
        any_passes = math.exp(found.max_log_p) > least
        return Offer(math.exp(found.log_p) > least, total_variation(block[index]) if any_passes else 0.0)
