"""What the lossy rules share: they stand on an exact rule, and let through some of what it rejects.

At each position:

1. What the exact test accepts stays accepted [ours], so no lossy rule rejects more than the exact one.
2. Support guard: a candidate outside the support is rejected before any other test. End and stop tokens have the
   exact test only.
3. The rest is let through where the rule says so: `distance_rule.py` for rules that look at the distance of p and q,
   `target_rule.py` for those that look at the target's own numbers.

Corrections come from the exact rule's residual, the bonus from the target's last row. Exact rule: the ratio
test, at temperature 0 the greedy match.

Charge. At temperature above 0 a bound on how far the law of the position is from p is charged at each position walked,
whatever the fate of its candidate. At temperature 0 both laws are one-hot: 1 for each mismatch let through [ours].
Where the charge would pass the budget, the exact rule decides and nothing is charged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.acceptance.base import Judgement, Position, Sample, Source, Verification
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


def is_open(position: Position) -> bool:
    """Whether a lossy rule may decide: the exact test rejects, and the guards do not."""
    return position.in_support and not position.exact_only and not accepts(position)


class LossyRule(ABC):
    """greedy: temperature 0. lossy_budget: most total variation charged, not negative; None is no limit."""

    name: str
    options: tuple[Option, ...] = (BUDGET,)
    needs_distance: bool

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
    def _knows(self, position: Position) -> bool:
        """Whether what the rule looks at is there; before, and elsewhere, the exact rule decides alone."""

    @abstractmethod
    def _verdict(self, block: Sequence[Position], index: int, spent: float) -> Verdict | None:
        """Of a candidate that it knows; None where its bracket leaves it open. spent: charged so far."""

    def _sample(self, position: Position, accepted: bool) -> Sample | None:
        """What is to be learnt of a decided position."""
        return None

    def _learn(self, sample: Sample) -> None:  # noqa: B027 - a rule without memory need not override
        """Takes in one decided position."""

    def thresholds(self) -> dict[str, float]:
        return {}

    def judge(self, block: Sequence[Position]) -> Judgement:
        spent, ended = self.charge, False
        sources: list[Source] = []
        charges: list[float] = []
        samples: list[Sample] = []
        undecided: list[int] = []
        next_token = None
        for index, position in enumerate(block):
            knows = not ended and self._knows(position)
            verdict = self._verdict(block, index, spent) if knows else exact_verdict(position)
            if verdict is None:
                # Go on, to ask for all rows at once; a position that is rejected in any case ends the search.
                undecided.append(index)
                continue
            spent += verdict.charge
            charges.append(verdict.charge)
            if not ended and (sample := self._sample(position, verdict.source is not None)) is not None:
                samples.append(sample)
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


def total_variation(position: Position) -> float:
    """TV(p, q) in [0, 1]; 1 where it is not known."""
    return 1.0 if position.tv is None else min(1.0, max(0.0, position.tv))
