"""Joint confidence: the threshold form of SpecDec++ (arXiv 2405.19715), without its trained head.

The paper shows that the best policy stops once the chance that some candidate of the block fails exceeds a threshold:

    stop after token i with 1 - a_1 ... a_i > h,    h = 0.3

and trains a head of the draft for the a_i, the chance that candidate i is accepted given those before it. [ours]: the
draft's own probability q(x_i) stands in for it, so that nothing is trained. The token is kept, as ratio and block
verification need of a rule that looks at q(x): only later tokens depend on it.
"""

from __future__ import annotations

from orchestrator.options import Option
from orchestrator.stopping.base import Limits, RoundOutcome


class JointConfidence:
    """max_tokens: hard cap. max_failure: h, in [0, 1]."""

    name = "joint-confidence"
    options = (Option("max_failure", least=0, most=1),)

    def __init__(self, max_tokens: int = 20, max_failure: float = 0.3) -> None:
        self._limits = Limits(max_tokens=max_tokens, min_joint_probability=1 - max_failure)

    def limits(self) -> Limits:
        return self._limits

    def update(self, outcome: RoundOutcome) -> None:
        """Nothing is learnt."""

    def thresholds(self) -> dict[str, float]:
        assert self._limits.min_joint_probability is not None
        return {"joint_probability": self._limits.min_joint_probability}
