"""What the lossless rules share."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.acceptance.base import Judgement, Position, Source, Verification
from orchestrator.options import Option


def accepts(position: Position) -> bool:
    """The exact test of one candidate: u < acceptance, which is u q(x) < p(x) under the ratio test."""
    return position.u < position.acceptance


def keep(block: Sequence[Position], kept: int) -> Judgement:
    """The judgement that keeps the first `kept` candidates by the exact rule."""
    return Judgement(
        kept=kept,
        sources=(Source.MATCHED,) * kept,
        next_token=block[kept].correction if kept < len(block) else None,
    )


def token_by_token(block: Sequence[Position]) -> Judgement:
    """Keeps candidates up to the first that its own test rejects (arXiv 2211.17192, algorithm 1)."""
    rejected = (index for index, position in enumerate(block) if not accepts(position))
    return keep(block, next(rejected, len(block)))


class LosslessRule:
    """Token by token, no state. Subclasses name the exact rule at temperatures above 0."""

    name: str
    options: tuple[Option, ...] = ()
    lossy = False
    needs_distance = False
    charge = 0.0
    let_through = 0
    sampling_verification: Verification

    def __init__(self, *, greedy: bool) -> None:
        """greedy: temperature 0, where all lossless rules are the greedy match."""
        self._greedy = greedy

    def verification(self, greedy: bool) -> Verification:
        return Verification.GREEDY if greedy else self.sampling_verification

    def judge(self, block: Sequence[Position]) -> Judgement:
        return token_by_token(block)

    def record(self, block: Sequence[Position], judgement: Judgement) -> None:
        """Nothing is learnt."""

    def thresholds(self) -> dict[str, float]:
        return {}
