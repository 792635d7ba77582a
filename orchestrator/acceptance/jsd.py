"""A fixed Jensen-Shannon threshold, after Fuzzy Speculative Decoding (arXiv 2502.20704).

The paper accepts iff the divergence is at most a threshold. Here the ratio test (match at temperature 0) goes
first, and what it rejects is let through iff d < threshold. The published thresholds come from a reverse KL
divergence and mean nothing here.
"""

from __future__ import annotations

from orchestrator.acceptance.base import Bracket
from orchestrator.acceptance.distance_rule import DistanceRule, threshold_chances
from orchestrator.acceptance.lossy import BUDGET
from orchestrator.options import Option


class FixedDistance(DistanceRule):
    """threshold: in [0, 1], on d (not its square); 0 accepts nothing more than the exact rule."""

    name = "jsd"
    options = (Option("threshold", least=0, most=1, needed=True), BUDGET)

    def __init__(self, threshold: float, *, greedy: bool, lossy_budget: float | None = None) -> None:
        super().__init__(greedy=greedy, lossy_budget=lossy_budget)
        self._threshold = threshold

    @property
    def lossy(self) -> bool:
        return self._threshold > 0 and super().lossy

    def _acts(self) -> bool:
        return True

    def _chances(self, distance: Bracket) -> tuple[float, ...]:
        return threshold_chances(distance, self._threshold)

    def thresholds(self) -> dict[str, float]:
        return {"distance": self._threshold}
