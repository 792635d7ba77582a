"""Consultant Decoding (arXiv 2506.02391): let through what the target finds likely enough, on the average of late.

    r <- 0.2 r + 0.8 (-ln p(x)),    accept iff r <= 2.0

r follows the surprisal of the candidates, in nats, so that one unlikely token among likely ones may stay. The draft's
distribution is not looked at. [ours]: r starts at 0 in each block; what the exact test accepts stays accepted, and
counts for r like any other; a rejection is corrected by the exact rule's residual.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.acceptance.base import Position
from orchestrator.acceptance.lossy import BUDGET, total_variation
from orchestrator.acceptance.target_rule import Offer, TargetRule, numbers
from orchestrator.options import Option


class Consultant(TargetRule):
    """max_surprisal: in nats, not negative. weight: of the newest candidate in r, above 0 and at most 1."""

    name = "consultant"
    options = (Option("max_surprisal", least=0), Option("weight", above=0, most=1), BUDGET)

    def __init__(
        self, *, greedy: bool, max_surprisal: float = 2.0, weight: float = 0.8, lossy_budget: float | None = None
    ) -> None:
        super().__init__(greedy=greedy, lossy_budget=lossy_budget)
        self._most = max_surprisal
        self._weight = weight

    def _offer(self, block: Sequence[Position], index: int) -> Offer:
        before = 0.0
        for position in block[:index]:
            before = self._follow(before, numbers(position).log_p)
        found = numbers(block[index])
        passes = self._follow(before, found.log_p) <= self._most
        any_passes = self._follow(before, found.max_log_p) <= self._most
        return Offer(passes, total_variation(block[index]) if any_passes else 0.0)

    def _follow(self, before: float, log_p: float) -> float:
        return (1 - self._weight) * before - self._weight * log_p
