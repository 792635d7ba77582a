"""How often the first, the second, the third candidate for a place is accepted at its turn, learnt on line."""

from __future__ import annotations

from collections.abc import Sequence

#: Candidates for one place, at most.
MOST_RANKS = 8
# [ours] Before anything was seen: as `look_ahead/corrections.py`, since a correction that is the draft's next best is
# what a second candidate would have been. Where both sides share their choice (greedy, coupled), and where they do not.
_SHARED = (0.7, 0.63, 0.54, 0.47, 0.4, 0.35, 0.3, 0.25)
_OWN = (0.7, 0.28, 0.19, 0.15, 0.12, 0.1, 0.1, 0.1)
# Turns that this is worth, and after which an old one weighs 1/e of a new one.
_PRIOR_WEIGHT = 8.0
_MEMORY = 500.0


class RankAcceptance:
    """By rank, over the places that verification has come to. What was not reached counts for nothing: a rank is seen
    with the chance that all before it are rejected."""

    def __init__(self, *, is_shared: bool = True) -> None:
        """is_shared: whether draft and target choose by the same rule or noise."""
        first = _SHARED if is_shared else _OWN
        self._accepted = [_PRIOR_WEIGHT * chance for chance in first]
        self._turns = [_PRIOR_WEIGHT] * len(first)

    def add(self, chances: Sequence[float]) -> None:
        """chances: with which the candidates for a place that was reached are accepted, each at its turn."""
        reached = 1.0
        for rank, chance in enumerate(chances[:MOST_RANKS]):
            keep = 1 - reached / _MEMORY
            self._turns[rank] = self._turns[rank] * keep + reached
            self._accepted[rank] = self._accepted[rank] * keep + reached * chance
            reached *= 1 - chance

    def values(self) -> list[float]:
        """By rank: the chance that this candidate is the one that is kept, where all before it are there."""
        shares, left = [], 1.0
        for accepted, turns in zip(self._accepted, self._turns, strict=True):
            shares.append(left * min(1.0, accepted / turns))
            left -= shares[-1]
        return shares
