"""Always the same number of candidates (arXiv 2211.17192; the "vanilla" of the AdaSD paper has 5)."""

from __future__ import annotations

from orchestrator.options import Option
from orchestrator.stopping.base import Limits, RoundOutcome


class FixedLength:
    """`max_tokens` candidates in every block."""

    name = "fixed"
    options: tuple[Option, ...] = ()

    def __init__(self, max_tokens: int = 5) -> None:
        self._limits = Limits(max_tokens=max_tokens)

    def limits(self) -> Limits:
        return self._limits

    def update(self, outcome: RoundOutcome) -> None:
        """Nothing is learnt."""

    def thresholds(self) -> dict[str, float]:
        return {}
