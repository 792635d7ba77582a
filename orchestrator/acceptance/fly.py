"""FLy, training-free loosely speculative decoding (arXiv 2511.22972): forgive a mismatch that the target itself goes
along with.

    a candidate that fails is let through iff H3(p) >= 0.3 and the next 5 candidates all pass,

H3 the entropy, in nats, of the target's three likeliest tokens. Where it is lower the target all but knows its token,
and a mismatch is an error; where the target, given the mismatch, would have said the same as the draft for a whole
window, it was another wording. A mismatch without a full window behind it in its block is not forgiven. So a block
needs at least 6 candidates for the rule to act at all: draft longer ones.

[ours]: the three probabilities are taken to add up to 1 (the authors' code leaves them as they are, which differs where
the three together are unlikely); and the window may end with the block (the code wants one more candidate behind it).
The paper's test is the match at temperature 0; above 0 it is the ratio test here. A window then tells of later draws,
so that no law of a single position bounds the change. But the text is the exact rule's until something was forgiven,
and at a position that can happen with no more than the chance TV(p, q) of a rejection: this is charged wherever the
gate is open, and the sum bounds TV(text, target's text) as ever.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.acceptance.base import Position
from orchestrator.acceptance.lossless import accepts
from orchestrator.acceptance.lossy import BUDGET, total_variation
from orchestrator.acceptance.target_rule import Offer, TargetRule, numbers
from orchestrator.options import Option


class Fly(TargetRule):
    """min_entropy: the gate, in nats, not negative. window: candidates behind it that must pass, at least 1."""

    name = "fly"
    options = (Option("min_entropy", least=0), Option("window", least=1, most=63, kind=int), BUDGET)

    def __init__(
        self, *, greedy: bool, min_entropy: float = 0.3, window: int = 5, lossy_budget: float | None = None
    ) -> None:
        super().__init__(greedy=greedy, lossy_budget=lossy_budget)
        self._min_entropy = min_entropy
        self._window = window

    def _offer(self, block: Sequence[Position], index: int) -> Offer:
        position = block[index]
        if numbers(position).top3_entropy < self._min_entropy:
            return Offer(passes=False, price=0.0)
        window = block[index + 1 : index + 1 + self._window]
        passes = len(window) == self._window and all(accepts(each) for each in window)
        return Offer(passes, total_variation(position))
