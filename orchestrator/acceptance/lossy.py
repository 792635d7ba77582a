"""What the lossy rules share: they stand on an exact rule, and let through some of what it rejects.

A lossy rule is a chance of letting through, a function of d (0 or 1 for threshold rules). At each position:

1. What the exact test accepts stays accepted [ours], so no lossy rule rejects more than the exact one.
2. Support guard: a candidate outside the support is rejected before any divergence test. (A bounded
   divergence can be small although p(x) = 0: at q(x) = .05 the least distance is .16.) End and stop tokens
   have the exact test only.
3. The rest is let through iff v < chance(d).

Corrections come from the exact rule's residual, the bonus from the target's last row. Exact rule: the ratio
test, at temperature 0 the greedy match.

Charge. At temperature above 0 the law of the position is p + chance (q - p), apart from tokens of step 2
whose excess stays with the residual, which only brings it closer to p: chance * TV(p, q) is charged at each
position walked, whatever its fate. At temperature 0 both laws are one-hot: 1 for each mismatch let through
[ours]. Where the charge would pass the budget, the exact rule decides and nothing is charged.

Brackets. A position is undecided where chance differs within its bracket and the outcome with it. A charge
that is only reported takes the largest chance in the bracket instead of asking [ours]. A candidate whose
distance was not measured has the exact test only [ours].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.acceptance.base import Bracket, Judgement, Position, Sample, Source, Verification
from orchestrator.acceptance.budget import LossyBudget
from orchestrator.acceptance.lossless import accepts
from orchestrator.options import Option

#: Of every lossy rule.
BUDGET = Option("lossy_budget", least=0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one candidate. source: None where it is rejected and `next_token` follows."""

    source: Source | None
    next_token: int
    charge: float = 0.0


def exact_verdict(position: Position, charge: float = 0.0) -> Verdict:
    """The exact rule's verdict."""
    return Verdict(Source.MATCHED if accepts(position) else None, position.correction, charge)


class LossyRule(ABC):
    """greedy: temperature 0. lossy_budget: most total variation charged, not negative; None is no limit."""

    name: str
    options: tuple[Option, ...] = (BUDGET,)
    needs_distance = True

    def __init__(self, *, greedy: bool, lossy_budget: float | None = None) -> None:
        self._greedy = greedy
        self._budget = LossyBudget(lossy_budget)
        self.charge = 0.0
        self.let_through = 0

    @property
    def lossy(self) -> bool:
        return self._budget.limit != 0

    def verification(self, greedy: bool) -> Verification:
        return Verification.GREEDY if greedy else Verification.RATIO

    @abstractmethod
    def _acts(self) -> bool:
        """Whether the cold start is over; before, the exact rule decides alone."""

    @abstractmethod
    def _chances(self, distance: Bracket) -> Sequence[float]:
        """Chance of letting through at distances that represent the bracket; one value where it is exact."""

    def _learn(self, sample: Sample) -> None:  # noqa: B027 - a rule without memory need not override
        """Takes in one decided position."""

    def thresholds(self) -> dict[str, float]:
        return {}

    def judge(self, block: Sequence[Position]) -> Judgement:
        spent, acts, ended = self.charge, self._acts(), False
        sources: list[Source] = []
        charges: list[float] = []
        samples: list[Sample] = []
        undecided: list[int] = []
        next_token = None
        for index, position in enumerate(block):
            measured = acts and not ended and position.distance is not None
            verdict = self._decide(position, spent) if measured else exact_verdict(position)
            if verdict is None:
                # Go on, to ask for all rows at once; a position that is rejected in any case ends the search.
                undecided.append(index)
                continue
            accepted = verdict.source is not None
            spent += verdict.charge
            charges.append(verdict.charge)
            guarded = acts and not accepted and self._guarded(position)
            if position.distance is not None and not ended and not guarded:
                samples.append(Sample(position.distance.midpoint, accepted))
            if verdict.source is None:
                next_token = verdict.next_token
                break
            sources.append(verdict.source)
            # After a kept end token there is no text: nothing is let through, charged or learnt there.
            ended = ended or position.exact_only
        if undecided:
            return Judgement(undecided=tuple(undecided))
        return Judgement(
            kept=len(sources),
            sources=tuple(sources),
            next_token=next_token,
            charges=tuple(charges),
            samples=tuple(samples),
        )

    def record(self, block: Sequence[Position], judgement: Judgement) -> None:
        for charge in judgement.charges:  # one by one, as `judge` did: the same rounding
            self.charge += charge
        self.let_through += judgement.sources.count(Source.LET_THROUGH)
        for sample in judgement.samples:
            self._learn(sample)

    def _guarded(self, position: Position) -> bool:
        """Whether only the support guard kept a rejected candidate out: that says nothing of its distance."""
        if position.in_support or position.distance is None:
            return False
        middle = position.distance.midpoint
        return position.v < self._chances(Bracket(middle, middle))[0]

    def _decide(self, position: Position, spent: float) -> Verdict | None:
        """The verdict of a measured position past the cold start; None where its bracket leaves it open."""
        assert position.distance is not None
        exact = exact_verdict(position)
        chances = self._chances(position.distance)
        is_open = position.in_support and not position.exact_only and exact.source is None
        if self._greedy:
            if not is_open or not self._budget.allows(spent, 1.0):
                return exact
            price = 0.0
        else:
            # Whether a charge is due must not depend on the fate of the candidate.
            if self._budget.limit is not None and len(set(chances)) > 1:
                return None
            price = max(chances) * total_variation(position)
            if not self._budget.allows(spent, price):
                return exact
            if not is_open:
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


def total_variation(position: Position) -> float:
    """TV(p, q) in [0, 1]; 1 where it is not known."""
    return 1.0 if position.tv is None else min(1.0, max(0.0, position.tv))
