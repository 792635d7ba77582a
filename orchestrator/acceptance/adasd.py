"""AdaSD version 1 (arXiv 2512.11280v1): an adaptive Jensen-Shannon threshold.

    accept iff d(p, q) < T_V,    T_V = (mean d of accepted + mean d of rejected) / 2

The paper's example: mean accepted 0.15, mean rejected 0.49, T_V = 0.32. Silent points are filled as in
`lossy.py` and `distance_rule.py`, and [ours]: T_V waits until both groups hold `min_samples`, until then the exact
rule decides;
rejections by the support guard enter neither group; T_V changes between rounds, not within a block.

Strict is the paper's literal rule: past the cold start d alone decides, also against the exact test, and a
rejection emits the target's own token (a sample from p; argmax p at temperature 0). Its law is the same as
the other's, q where d < T_V and p elsewhere; it is only slower. End tokens have the exact test where d < T_V;
elsewhere they are rejected like any other, since there a sample from p has the law p only if nothing was
accepted [ours].
"""

from __future__ import annotations

from orchestrator.acceptance.base import Bracket, Position, Sample, Source
from orchestrator.acceptance.distance_rule import DistanceRule, threshold_chances
from orchestrator.acceptance.lossless import accepts
from orchestrator.acceptance.lossy import BUDGET, Verdict, exact_verdict, total_variation
from orchestrator.options import Option
from orchestrator.running_mean import RunningMean


class AdaSd(DistanceRule):
    """min_samples: samples that each group needs before T_V acts, at least 1."""

    name = "adasd"
    options = (Option("strict", kind=bool), BUDGET, Option("min_samples", least=1, kind=int))

    def __init__(
        self, *, greedy: bool, strict: bool = False, lossy_budget: float | None = None, min_samples: int = 5
    ) -> None:
        super().__init__(greedy=greedy, lossy_budget=lossy_budget)
        self._strict = strict
        self._min_samples = min_samples
        self._accepted = RunningMean()
        self._rejected = RunningMean()

    @property
    def threshold(self) -> float | None:
        """T_V; None in the cold start."""
        if min(self._accepted.count, self._rejected.count) < self._min_samples:
            return None
        assert self._accepted.value is not None and self._rejected.value is not None
        return (self._accepted.value + self._rejected.value) / 2

    def thresholds(self) -> dict[str, float]:
        return {} if self.threshold is None else {"distance": self.threshold}

    def _acts(self) -> bool:
        return self.threshold is not None

    def _chances(self, distance: Bracket) -> tuple[float, ...]:
        assert self.threshold is not None
        return threshold_chances(distance, self.threshold)

    def _learn(self, sample: Sample) -> None:
        (self._accepted if sample.accepted else self._rejected).add(sample.distance)

    def _decide(self, position: Position, spent: float) -> Verdict | None:
        return self._decide_strictly(position, spent) if self._strict else super()._decide(position, spent)

    def _decide_strictly(self, position: Position, spent: float) -> Verdict | None:
        assert position.distance is not None
        chances = set(self._chances(position.distance))
        if len(chances) > 1:
            return None
        rejected = Verdict(None, position.target_token)
        if not chances.pop():
            return rejected
        matched = accepts(position)
        through = position.in_support and not position.exact_only and not matched
        price = float(through) if self._greedy else total_variation(position)
        if not self._budget.allows(spent, price):
            return exact_verdict(position)
        if position.exact_only:
            return exact_verdict(position, price)
        if not position.in_support:
            return Verdict(None, position.target_token, price)
        return Verdict(Source.MATCHED if matched else Source.LET_THROUGH, position.target_token, price)
