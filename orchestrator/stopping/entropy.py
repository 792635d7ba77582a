"""SVIP (arXiv 2411.18462): stop after a token whose distribution has more entropy than a fixed ceiling.

The paper bounds the chance of acceptance by entropy and stops once sqrt(0.15 H(q)) > 0.3, H in nats, which is
H(q) > 0.6; at most 40 candidates. The token is kept; the rule looks at its distribution, never at the token.
"""

from __future__ import annotations

from orchestrator.options import Option
from orchestrator.stopping.base import Limits, RoundOutcome


class EntropyCeiling:
    """max_tokens: hard cap. max_entropy: the ceiling in nats."""

    name = "entropy"
    options = (Option("max_entropy", least=0),)

    def __init__(self, max_tokens: int = 40, max_entropy: float = 0.6) -> None:
        self._limits = Limits(max_tokens=max_tokens, max_entropy_after=max_entropy)

    def limits(self) -> Limits:
        return self._limits

    def update(self, outcome: RoundOutcome) -> None:
        """Nothing is learnt."""

    def thresholds(self) -> dict[str, float]:
        assert self._limits.max_entropy_after is not None
        return {"entropy": self._limits.max_entropy_after}
