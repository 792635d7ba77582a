"""What the rules share that let through by the target's own numbers: log p(x), max p, entropies
(`lossy.py` has what all lossy rules share).

None of them needs q, so that they act on drafters without a distribution at temperature 0, too.

Charge. At temperature above 0 let c(x) be the chance with which such a rule lets x through once the ratio test has
rejected it. The law of the position is then

    min(p, q) + c (q - p)^+ + residual * sum of (1 - c)(q - p)^+

which is sum of c (q - p)^+ away from p in total variation: at most max c * TV(p, q). Of c only its value at x is known
to matter, but the bound must not depend on x: TV is charged wherever any token would pass, nothing where none would.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.acceptance.base import Position, Source, TargetNumbers
from orchestrator.acceptance.lossy import LossyRule, Verdict, exact_verdict, is_open


@dataclass(frozen=True, slots=True)
class Offer:
    """passes: whether the candidate is let through if the exact test rejects it. price: bound on the distance of the
    position's law from p, in [0, 1], the same for all candidates of a position; at temperature 0 it is not read."""

    passes: bool
    price: float


class TargetRule(LossyRule):
    """See `LossyRule`."""

    needs_distance = False

    @abstractmethod
    def _offer(self, block: Sequence[Position], index: int) -> Offer:
        """Of a candidate whose numbers are known."""

    def _knows(self, position: Position) -> bool:
        return position.target is not None

    def _verdict(self, block: Sequence[Position], index: int, spent: float) -> Verdict | None:
        position, offer = block[index], self._offer(block, index)
        through = is_open(position) and offer.passes
        if self._greedy:
            price = float(through)
        else:
            price = offer.price
        if not self._budget.allows(spent, price):
            return exact_verdict(position)
        if through:
            return Verdict(Source.LET_THROUGH, position.correction, price)
        return exact_verdict(position, price)


def numbers(position: Position) -> TargetNumbers:
    """Of a position that has them."""
    assert position.target is not None
    return position.target
