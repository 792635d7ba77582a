"""Which candidates of a step are run where a budget does not hold all of them: those that are likeliest to be kept,
whoever's they are (TETRIS, arXiv 2502.15197, section 3: the greedy choice is optimal).

A candidate counts for nothing without those before it, so its score must be no larger than theirs; then the best ones
are prefixes of their blocks. Whether one is chosen depends on scores that are larger than its own, never on those of
candidates that follow it: a score that does not know its own token leaves every exact rule exact.
"""

from __future__ import annotations

from collections.abc import Sequence


def choose(scores: Sequence[Sequence[float]], most: int) -> list[int]:
    """How many candidates of each block, from its start, are among the best `most` of all.

    scores: of each block's candidates, never rising. Of equal ones the earlier in its block goes first, then the
    earlier block.
    """
    if sum(map(len, scores)) <= most:
        return [len(each) for each in scores]
    ranked = sorted((-score, place, block) for block, each in enumerate(scores) for place, score in enumerate(each))
    counts = [0] * len(scores)
    for _, _, block in ranked[:most]:
        counts[block] += 1
    return counts
