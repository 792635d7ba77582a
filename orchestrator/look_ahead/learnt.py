"""By what outcomes are foreseen, and how much may be."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.look_ahead.corrections import CorrectionShares
from orchestrator.stopping.expectation import OwnCurve, knots
from tandem.v1 import draft_pb2


@dataclass(frozen=True, slots=True)
class Learnt:
    """Of one completion; what is behind it is shared with others. most_branches: as its policy says; None where that
    does not. may_shorten: whether its promises leave block lengths to chance, so that a block may be as long as what
    happened to be there."""

    curve: OwnCurve
    corrections: CorrectionShares
    most_branches: int | None
    may_shorten: bool

    def survival(self, entropies: list[float]) -> float:
        """The chance that candidates of these distributions are all kept."""
        survival = 1.0
        for entropy in entropies:
            survival *= self.curve.at(entropy)
        return survival

    def message(self, branches: int, limits: draft_pb2.DraftLimits, size: int, saved: float) -> draft_pb2.LookAhead:
        """At most so many branches and bytes. limits: of each. saved: seconds, by a block that is there."""
        return draft_pb2.LookAhead(
            max_branches=branches,
            limits=limits,
            acceptance_curve=draft_pb2.AcceptanceCurve(entropies=knots(), acceptances=self.curve.values()),
            correction_shares=self.corrections.values(),
            max_bytes=size,
            hit_seconds=saved,
        )
