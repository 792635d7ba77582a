"""The stop rule of Draft & Verify (arXiv 2309.08168): stop once the draft doubts its token, by a threshold
that steers the share of accepted candidates.

    stop after a token with q(x) < th

After a round, with n_drafted, n_accepted and the cap L:

    AR   <- 0.5 AR + 0.5 n_accepted / n_drafted
    goal <- th + 0.01 if AR < 0.9,  th elif n_drafted = L,  th - 0.01 otherwise
    th   <- 0.9 th + 0.1 goal

Values and starts (th = 0.8, AR = 0) are those of the authors' code, L = 12 that of their measurements. The
token is kept, as ratio and block verification need of a rule that looks at q(x): only later tokens depend on it.
[ours]: th stays in [0, 1]; a round without candidates changes nothing.
"""

from __future__ import annotations

from orchestrator.options import Option
from orchestrator.stopping.base import Limits, RoundOutcome

_ACCEPTANCE_MEMORY = 0.5
_ACCEPTANCE_GOAL = 0.9
_STEP = 0.01
_THRESHOLD_MEMORY = 0.9


class DraftVerify:
    """max_tokens: the cap L. initial_min_probability: th at the start, in [0, 1]."""

    name = "draft-verify"
    options = (Option("initial_min_probability", least=0, most=1),)

    def __init__(self, max_tokens: int = 12, initial_min_probability: float = 0.8) -> None:
        self._max_tokens = max_tokens
        self._threshold = initial_min_probability
        self._acceptance_rate = 0.0

    def limits(self) -> Limits:
        return Limits(max_tokens=self._max_tokens, min_probability=self._threshold)

    def update(self, outcome: RoundOutcome) -> None:
        if outcome.drafted == 0:
            return
        rate = outcome.accepted / outcome.drafted
        self._acceptance_rate = _ACCEPTANCE_MEMORY * self._acceptance_rate + (1 - _ACCEPTANCE_MEMORY) * rate
        goal = self._threshold
        if self._acceptance_rate < _ACCEPTANCE_GOAL:
            goal += _STEP
        elif outcome.drafted != outcome.cap:
            goal -= _STEP
        moved = _THRESHOLD_MEMORY * self._threshold + (1 - _THRESHOLD_MEMORY) * goal
        self._threshold = min(1.0, max(0.0, moved))

    def thresholds(self) -> dict[str, float]:
        return {"probability": self._threshold}
