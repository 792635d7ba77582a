"""AdaEDL (arXiv 2410.18351): stop where a lower bound on acceptance, by entropy, is under lambda.

Before each token: stop iff 1 - sqrt(gamma H(q)) < lambda, H in nats; which is H(q) > (1 - lambda)^2 / gamma,
the form sent to the draft. It looks at the token's distribution, never at the token, so every exact rule
stays exact. After a round, with n_drafted, n_accepted and the cap L:

    AR     <- 0.5 AR + 0.5 n_accepted / n_drafted
    target <- lambda + 0.01 if AR < 0.9,  lambda - 0.01 elif n_accepted != L,  lambda otherwise
    lambda <- 0.9 lambda + 0.1 target

[ours]: lambda starts at 0.5 (the paper sweeps 0.3 to 0.9) and stays in [0, 1]; AR starts at 0.9; at least one
token is drafted; a round without candidates changes nothing.
"""

from __future__ import annotations

from orchestrator.options import Option
from orchestrator.stopping.base import Limits, RoundOutcome

_ACCEPTANCE_MEMORY = 0.5
_ACCEPTANCE_GOAL = 0.9
_STEP = 0.01
_LAMBDA_MEMORY = 0.9


class AdaEdl:
    """max_tokens: the cap L. initial_lambda: in [0, 1]. gamma: above 0."""

    name = "adaedl"
    options = (Option("initial_lambda", least=0, most=1), Option("gamma", above=0))

    def __init__(self, max_tokens: int = 20, initial_lambda: float = 0.5, gamma: float = 0.2) -> None:
        self._max_tokens = max_tokens
        self._lambda = initial_lambda
        self._gamma = gamma
        self._acceptance_rate = _ACCEPTANCE_GOAL

    def limits(self) -> Limits:
        return Limits(max_tokens=self._max_tokens, min_tokens=1, max_entropy_before=self._entropy_ceiling())

    def _entropy_ceiling(self) -> float:
        return (1.0 - self._lambda) ** 2 / self._gamma

    def update(self, outcome: RoundOutcome) -> None:
        if outcome.drafted == 0:
            return
        rate = outcome.accepted / outcome.drafted
        self._acceptance_rate = _ACCEPTANCE_MEMORY * self._acceptance_rate + (1 - _ACCEPTANCE_MEMORY) * rate
        goal = self._lambda
        if self._acceptance_rate < _ACCEPTANCE_GOAL:
            goal += _STEP
        elif outcome.accepted != outcome.cap:
            goal -= _STEP
        moved = _LAMBDA_MEMORY * self._lambda + (1 - _LAMBDA_MEMORY) * goal
        self._lambda = min(1.0, max(0.0, moved))

    def thresholds(self) -> dict[str, float]:
        return {"lambda": self._lambda, "entropy": self._entropy_ceiling()}
