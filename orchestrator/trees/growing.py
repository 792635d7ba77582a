"""Which shape the next block of a completion has."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from orchestrator.stopping import Limits
from orchestrator.stopping.costs import Costs
from orchestrator.trees.ranks import MOST_RANKS, RankAcceptance
from orchestrator.trees.shapes import Shapes
from tandem.trees import MOST_CANDIDATES, NO_TREE, Tree

#: Candidates for one place, where a policy does not say how many.
WIDTH = 4
# [ours] By how much a tree has to be better than a path: paths end where their own entropies say so, which is not
# counted here.
_MARGIN = 1.05
# Chances are told apart by so much: shapes change little with them, and are not made anew for each round.
_GRAIN = 0.02


class TreeRule:
    """Of one completion. The shape depends on what was measured before the round alone, so that every exact rule stays
    exact (see `draft_service/drafters/trees.py`).

    nodes: of each block; None: as many as are worth their time, by the goodput of a tree of n candidates and height h,

        G(n, h) = (1 + c(n, h)) / (h t_d + (1 + w) t_v(B (n + 1)) + t_o)

    with c of `shapes.py` and times of `stopping/costs.py`: a level is one step of the draft. Where the best path is as
    good, blocks are paths under the stop rule's limits.
    """

    def __init__(self, ranks: RankAcceptance, costs: Costs, *, nodes: int | None = None, width: int = WIDTH) -> None:
        self._ranks = ranks
        self._costs = costs
        self._nodes = nodes
        self._width = min(width, MOST_RANKS)

    def shape(self, limits: Limits, left: int) -> tuple[Limits, Tree]:
        """Limits and shape of the next block; NO_TREE for a path. limits: of the stop rule, with candidates. left:
        tokens that the completion may still have."""
        height = min(limits.max_tokens, left - 1)
        if height < 1:
            return limits, NO_TREE
        if self._nodes is None:
            tree = self._worth_most(height)
        else:
            tree = self._shapes(height).tree(self._nodes, height)
            limits = replace(limits, max_tokens=min(limits.max_tokens, self._nodes))
        if tree.is_chain:
            return limits, NO_TREE
        # Whether a place is worth its time has been seen to.
        return replace(limits, min_survival=(), acceptance_curve=(), ahead=None), tree

    def learn(self, chances: list[list[float]]) -> None:
        """chances: of the candidates for each place that was reached, each at its turn."""
        for each in chances:
            self._ranks.add(each)

    def _shapes(self, height: int) -> Shapes:
        chances = self._ranks.values()[: self._width]
        return _shapes(tuple(round(chance / _GRAIN) for chance in chances), height)

    def _worth_most(self, height: int) -> Tree:
        costs = self._costs
        if not costs.is_known:
            return NO_TREE
        sizes, heights = range(1, MOST_CANDIDATES + 1), range(1, height + 1)
        verifying = np.array([costs.verifying(size) for size in sizes])
        others = np.array([costs.tree_seconds(0.0, each) for each in heights])
        shapes = self._shapes(height)
        worth = (1 + shapes.expected[1:, 1:]) / (verifying[:, None] + others)
        size, deep = np.unravel_index(worth.argmax(), worth.shape)
        first = self._ranks.values()[0]
        yields = 1 + np.cumsum(first ** np.arange(1, min(height, MOST_CANDIDATES) + 1))
        path = (yields / (verifying[: len(yields)] + others[: len(yields)])).max()
        if worth[size, deep] < _MARGIN * path:
            return NO_TREE
        return shapes.tree(int(size) + 1, int(deep) + 1)


@lru_cache(maxsize=64)
def _shapes(grains: tuple[int, ...], height: int) -> Shapes:
    return Shapes([grain * _GRAIN for grain in grains], MOST_CANDIDATES, height)
