"""The shapes of trees from which most accepted candidates are expected: Sequoia's dynamic programme (Chen et al., arXiv
2402.12374, section 4.1).

Candidate r of a place is kept with probability p_r, given that the one above it is and wherever the place is
(positional acceptance). So a candidate is kept with the product of these along its path, and a tree of n candidates
yields their sum. With c(n, d) for the best sum of n candidates below a place and at most d deep,

    c(n, d) = best over n_0 + n_1 + ... = n of the sum of p_r (1 + c(n_r - 1, d - 1)),

taken rank by rank: f(r, m) = max over j of p_r (1 + c(j - 1, d - 1)) + f(r + 1, m - j), where c(n, d) = f(0, n).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from tandem.trees import NO_TREE, ROOT, Tree


class Shapes:
    """The best shapes of all sizes at once. expected: accepted candidates, float64 [nodes + 1, height + 1]: of at most
    so many candidates and at most so many on a path."""

    def __init__(self, chances: Sequence[float], nodes: int, height: int) -> None:
        """chances: p_r by rank; as many candidates has a place at most. nodes, height: the largest."""
        ranks = len(chances)
        self.expected = np.zeros((nodes + 1, height + 1))
        # [d][r][m]: of m candidates for this rank and the ones behind it, those of this rank's branch.
        self._branches = np.zeros((height + 1, ranks, nodes + 1), dtype=np.int64)
        sizes = np.arange(nodes + 1)
        rest = sizes[:, None] - sizes[None, :]  # [m, j]
        fits = (rest >= 0) & (sizes > 0)
        for depth in range(1, height + 1):
            below = np.concatenate([[0.0], 1 + self.expected[:-1, depth - 1]])  # of a branch of j candidates
            best = np.zeros(nodes + 1)
            for rank in reversed(range(ranks)):
                totals = np.where(fits, chances[rank] * below + best[rest.clip(min=0)], 0.0)
                self._branches[depth, rank] = totals.argmax(axis=1)
                best = totals.max(axis=1)
            self.expected[:, depth] = best

    def tree(self, nodes: int, height: int) -> Tree:
        """The best one of at most so many candidates, at most so many on a path, level by level."""
        parents: list[int] = []
        waiting = deque([(ROOT, nodes, height)])
        while waiting:
            above, left, depth = waiting.popleft()
            for rank in range(self._branches.shape[1]):
                size = int(self._branches[depth, rank, left]) if depth else 0
                if not size:
                    break
                parents.append(above)
                waiting.append((len(parents) - 1, size - 1, depth - 1))
                left -= size
        return Tree(parents) if parents else NO_TREE
