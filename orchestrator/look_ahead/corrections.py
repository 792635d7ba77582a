"""Which of the draft's next best tokens takes the place of a rejected candidate: learnt on line."""

from __future__ import annotations

from collections.abc import Sequence

# [ours] Before anything was seen: of the rejections that no better one has corrected, the share that this one does.
# Recorded traces of two pairs, where both sides share their choice (greedy, coupled), and where they do not.
_SHARED = (0.63, 0.54, 0.47, 0.4, 0.35, 0.3, 0.25, 0.2)
_OWN = (0.28, 0.19, 0.15, 0.12, 0.1, 0.1, 0.1, 0.1)
# Rejections that this is worth, and after which an old one weighs 1/e of a new one.
_PRIOR_WEIGHT = 8.0
_MEMORY = 500.0


class CorrectionShares:
    """Shares by rank: how often the correction was the draft's next best, second next and so on.

    Where fewer were foreseen than there are ranks, a rejection says only that it was none of these: each rank is
    counted among those rejections that reached it (Kaplan and Meier's estimator, 1958).
    """

    def __init__(self, *, is_shared: bool = True) -> None:
        """is_shared: whether draft and target choose by the same rule or noise."""
        first = _SHARED if is_shared else _OWN
        self._hits = [_PRIOR_WEIGHT * share for share in first]
        self._trials = [_PRIOR_WEIGHT] * len(first)

    def add(self, foreseen: Sequence[int], correction: int) -> None:
        """foreseen: the draft's next best tokens, best first; there may have been more."""
        ranked = foreseen[: len(self._hits)]
        rank = ranked.index(correction) if correction in ranked else None
        reached = len(ranked) if rank is None else rank + 1
        for at in range(reached):
            keep = 1 - 1 / _MEMORY
            self._trials[at] = self._trials[at] * keep + 1
            self._hits[at] = self._hits[at] * keep + (at == rank)

    def values(self) -> list[float]:
        """By rank; together 1 at most."""
        shares, left = [], 1.0
        for hits, trials in zip(self._hits, self._trials, strict=True):
            shares.append(left * hits / trials)
            left -= shares[-1]
        return shares
