"""Which candidates of a step are run where a budget does not hold all of them: those that are likeliest to be kept,
whoever's they are (TETRIS, arXiv 2502.15197, section 3: the greedy choice is optimal).

A candidate counts for nothing without those before it, so its score must be no larger than theirs; then the best ones
are prefixes of their blocks. Whether one is chosen depends on scores that are larger than its own, never on those of
candidates that follow it: a score that does not know its own token leaves every exact rule exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

# Candidates over which a step may be flat before it takes longer, looked across when pricing the next one.
_FLAT = 8


def choose(scores: Sequence[Sequence[float]], most: int) -> list[int]:
    """How many candidates of each block, from its start, are among the best `most` of all.

    scores: of each block's candidates, never rising. Of equal ones the earlier in its block goes first, then the
    earlier block.
    """
    if sum(map(len, scores)) <= most:
        return [len(each) for each in scores]
    counts = [0] * len(scores)
    for _, _, block in _ranked(scores)[:most]:
        counts[block] += 1
    return counts


def weigh(
    scores: Sequence[Sequence[float]], tokens: int, made: float, seconds: Callable[[float], float]
) -> list[int]:
    """How many candidates of each block, from its start, are worth the time that they add to a step [ours].

    The next best one is, where it or some as good behind it are expected to make more a second than the step does
    without them: so many more tokens are made a second with it. Their scores are not looked at, so that this depends on
    larger ones only, too.

    scores: as of `choose`; their exponentials are taken for chances to be kept. tokens, made: that the step takes in
    and makes without candidates. seconds: of a step that takes in so many tokens.
    """
    counts = [0] * len(scores)
    for negative, _, block in _ranked(scores):
        chance, took = math.exp(-negative), seconds(tokens)
        pace = made / took
        more = range(1, _FLAT + 1)
        if all(count * chance < pace * (seconds(tokens + count) - took) for count in more):
            break
        counts[block] += 1
        tokens, made = tokens + 1, made + chance
    return counts


def _ranked(scores: Sequence[Sequence[float]]) -> list[tuple[float, int, int]]:
    """The best first: its score's negative, its place and its block."""
    return sorted((-score, place, block) for block, each in enumerate(scores) for place, score in enumerate(each))
