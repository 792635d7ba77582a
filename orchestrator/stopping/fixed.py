"""Always the same number of candidates (arXiv 2211.17192; the "vanilla" of the AdaSD paper has 5)."""

from __future__ import annotations

from orchestrator.stopping.base import Limits, RoundOutcome


class FixedLength:
    """`length` candidates in every block."""

    name = "fixed"

    def __init__(self, length: int = 5) -> None:
        self._limits = Limits(max_tokens=length)

    def limits(self) -> Limits:
        return self._limits

    def update(self, outcome: RoundOutcome) -> None:
        """Nothing is learnt."""

    def thresholds(self) -> dict[str, float]:
        return {}
