"""What the rules share that let through by the distance of p and q (`lossy.py` has what all lossy rules share).

Such a rule is a chance of letting through, a function of d (0 or 1 for threshold rules): a candidate is let through
iff v < chance(d). The support guard goes first, since a bounded divergence can be small although p(x) = 0: at
q(x) = .05 the least distance is .16.

Charge. At temperature above 0 the law of the position is p + chance (q - p), apart from guarded tokens, whose excess
stays with the residual, which only brings it closer to p: chance * TV(p, q) is charged at each position walked.

Brackets. A position is undecided where chance differs within its bracket and the outcome with it. A charge
that is only reported takes the largest chance in the bracket instead of asking [ours]. A candidate whose
distance was not measured has the exact test only [ours].
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from orchestrator.acceptance.base import Bracket, Position, Sample, Source
from orchestrator.acceptance.lossy import LossyRule, Verdict, exact_verdict, is_open, total_variation


class DistanceRule(LossyRule):
    """See `LossyRule`."""

    needs_distance = True

    @abstractmethod
    def _acts(self) -> bool:
        """Whether the cold start is over; before, the exact rule decides alone."""

    @abstractmethod
    def _chances(self, distance: Bracket) -> Sequence[float]:
        """Chance of letting through at distances that represent the bracket; one value where it is exact."""

    def _knows(self, position: Position) -> bool:
        return position.distance is not None and self._acts()

    def _sample(self, position: Position, accepted: bool) -> Sample | None:
        if position.distance is None or (not accepted and self._acts() and self._guarded(position)):
            return None
        return Sample(position.distance.midpoint, accepted)

    def _guarded(self, position: Position) -> bool:
        """Whether only the support guard kept a rejected candidate out: that says nothing of its distance."""
        if position.in_support or position.distance is None:
            return False
        middle = position.distance.midpoint
        return position.v < self._chances(Bracket(middle, middle))[0]

    def _verdict(self, block: Sequence[Position], index: int, spent: float) -> Verdict | None:
        return self._decide(block[index], spent)

    def _decide(self, position: Position, spent: float) -> Verdict | None:
        """The verdict of a measured position past the cold start; None where its bracket leaves it open."""
        assert position.distance is not None
        chances = self._chances(position.distance)
        if self._greedy:
            if not is_open(position) or not self._budget.allows(spent, 1.0):
                return exact_verdict(position)
            price = 0.0
        else:
            # Whether a charge is due must not depend on the fate of the candidate.
            if self._budget.limit is not None and len(set(chances)) > 1:
                return None
            price = max(chances) * total_variation(position)
            if not self._budget.allows(spent, price):
                return exact_verdict(position)
            if not is_open(position):
                return exact_verdict(position, price)
        outcomes = {position.v < chance for chance in chances}
        if len(outcomes) > 1:
            return None
        if not outcomes.pop():
            return exact_verdict(position, price)
        return Verdict(Source.LET_THROUGH, position.correction, 1.0 if self._greedy else price)


def threshold_chances(distance: Bracket, threshold: float) -> tuple[float, ...]:
    """Chances of the rule "d < threshold" at the ends of a bracket; equal ends are one."""
    ends = (distance.lower,) if distance.is_exact else (distance.lower, distance.upper)
    return tuple(float(end < threshold) for end in ends)
