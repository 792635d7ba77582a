"""The stop rule of assisted generation in Hugging Face transformers: stop when the draft doubts its token.

    stop after a token with q(x) < tau

tau starts at 0.4; after each verification the pairs (matched?, q(x)) are collected and, once more than 5
pairs hold both classes, tau becomes the ROC threshold that minimises fpr + 3 (1 - tpr). The token is kept, as
ratio and block verification need of a rule that looks at q(x): only later tokens depend on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import groupby

from orchestrator.options import Option
from orchestrator.stopping.base import Limits, RoundOutcome

_PAIRS_NEEDED = 6
_MISS_COST = 3.0
# [ours] The threshold is fitted anew after every round, which sorts all pairs; so that a round of a long text
# costs no more than one of a short text, only the latest pairs count (a thousand are sorted in a fraction of
# a millisecond).
_PAIRS_KEPT = 1000


class Confidence:
    """max_tokens: hard cap. initial_threshold: tau before the first fit, in [0, 1]."""

    name = "confidence"
    options = (Option("initial_threshold", least=0, most=1),)

    def __init__(self, max_tokens: int = 20, initial_threshold: float = 0.4) -> None:
        self._max_tokens = max_tokens
        self._threshold = initial_threshold
        self._pairs: deque[tuple[float, bool]] = deque(maxlen=_PAIRS_KEPT)

    def limits(self) -> Limits:
        return Limits(max_tokens=self._max_tokens, min_probability=self._threshold)

    def update(self, outcome: RoundOutcome) -> None:
        # Candidates after the first rejected one have no class: `matched` is the shorter.
        self._pairs.extend(zip(outcome.probabilities, outcome.matched, strict=False))
        classes = {matched for _, matched in self._pairs}
        if len(self._pairs) >= _PAIRS_NEEDED and len(classes) == 2:
            self._threshold = roc_threshold(self._pairs)

    def thresholds(self) -> dict[str, float]:
        return {"probability": self._threshold}


def roc_threshold(pairs: Iterable[tuple[float, bool]]) -> float:
    """The score at which predicting "matched" for all scores at or above it minimises fpr + 3 (1 - tpr).

    pairs: (score, matched), both classes present. The thresholds tried are the scores themselves; of equally
    good ones the highest wins. (scikit-learn's curve also has a threshold above all scores: it costs 3, and
    predicting "matched" for everything 1, so it never wins.)
    """
    ordered = sorted(pairs, reverse=True)
    positives = sum(matched for _, matched in ordered)
    negatives = len(ordered) - positives
    best_cost, best = float("inf"), 0.0
    true_positives = false_positives = 0
    for score, group in groupby(ordered, key=lambda pair: pair[0]):
        for _, matched in group:
            true_positives += matched
            false_positives += not matched
        cost = false_positives / negatives + _MISS_COST * (1 - true_positives / positives)
        if cost < best_cost:
            best_cost, best = cost, score
    return best
