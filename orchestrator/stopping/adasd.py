"""AdaSD's stop rule (arXiv 2512.11280): stop once the draft is less sure than it was where it failed.

    stop after a token with H(q) > T_G,    T_G = mean of H(q) over the first rejected token of each round

H in nats. The token is kept: whether a later one is submitted depends on the distribution of an earlier one
only, so every exact rule stays exact. T_G is a plain cumulative mean since the start of the completion.
"""

from __future__ import annotations

from orchestrator.options import Option
from orchestrator.running_mean import RunningMean
from orchestrator.stopping.base import Limits, RoundOutcome


class AdaSd:
    """max_tokens: the paper's hard cap W. cold_max_tokens: cap until the first rejection gives T_G [ours]."""

    name = "adasd"
    options = (Option("cold_max_tokens", least=1, most=64, kind=int),)

    def __init__(self, max_tokens: int = 20, cold_max_tokens: int = 5) -> None:
        self._max_tokens = max_tokens
        self._cold_max_tokens = min(cold_max_tokens, max_tokens)
        self._rejected_entropy = RunningMean()

    def limits(self) -> Limits:
        threshold = self._rejected_entropy.value
        if threshold is None:
            return Limits(max_tokens=self._cold_max_tokens)
        return Limits(max_tokens=self._max_tokens, max_entropy_after=threshold)

    def update(self, outcome: RoundOutcome) -> None:
        # Only the first rejected token: the later ones were never judged.
        if outcome.accepted < outcome.drafted:
            self._rejected_entropy.add(outcome.entropies[outcome.accepted])

    def thresholds(self) -> dict[str, float]:
        threshold = self._rejected_entropy.value
        return {} if threshold is None else {"entropy": threshold}
