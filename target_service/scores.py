"""What a candidate is worth to verify, for a step that cannot verify all (TETRIS, arXiv 2502.15197).

The paper ranks the tokens of all blocks by the draft's probability that a token and all before it are accepted: the
running sum of log q(x). That looks at the token itself, which the rules that accept by p(x)/q(x) do not allow: with
p = (.5, .5) and q = (.9, .1), dropping the unlikely token after it was drawn emits (.55, .45). Under these a candidate
is ranked without its token [ours]: by the sum of log q(x) before it, minus H(q), which is what log q(x) is expected to
be. An entropy may fall by more than the token before it cost, so that such a sum may rise; it is held at the least of
those before it, which know no more than it does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from target_service.blocks import Rule


def scores(rule: Rule, log_probabilities: Sequence[float], entropies: Sequence[float]) -> list[float]:
    """Of each candidate of a block, in nats, at most 0 and never rising.

    log_probabilities: log q(x) of each. entropies: H(q) of each, in nats.
    """
    # Both may lie on the wrong side of 0 by rounding.
    surprises = [min(0.0, value) for value in log_probabilities]
    if not rule.draws_residuals:
        return list(accumulate(surprises))
    before = accumulate(surprises, initial=0.0)
    expected = [total - max(0.0, entropy) for total, entropy in zip(before, entropies, strict=False)]
    return list(accumulate(expected, min))


def check(values: Sequence[float], size: int) -> str | None:
    """What is wrong with a column of a block of so many candidates, as far as it is ranked by; None for nothing."""
    if len(values) != size:
        return f"has {len(values)} entries for {size} candidates, which this service ranks by them"
    if any(math.isnan(value) for value in values):
        return "has an entry that is no number"
    return None
