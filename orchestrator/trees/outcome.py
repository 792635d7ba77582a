"""What a stop rule and the shapes to come learn of a tree."""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.acceptance import Judgement, Position, Verification
from orchestrator.stopping import RoundCosts, RoundOutcome
from orchestrator.trees.walk import met
from tandem.trees import Tree
from tandem.v1 import block_pb2

# Under these a candidate's chance, before it was drawn, is 1 - TV of p and q.
_RATIO_LIKE = (Verification.RATIO, Verification.BLOCK)


def place_chances(block: block_pb2.Block, positions: Sequence[Position], judgement: Judgement) -> list[list[float]]:
    """Of the candidates for each place that was reached: the chance of each at its turn."""
    families = met(Tree(block.parents), judgement.path)
    return [[positions[child].acceptance for child in children] for children in families]


def path_outcome(
    block: block_pb2.Block,
    positions: Sequence[Position],
    judgement: Judgement,
    verification: Verification,
    *,
    cap: int,
    costs: RoundCosts | None,
) -> RoundOutcome:
    """The path that was decided, as if it had been drafted alone. Its expected acceptances are those of the first
    candidate for each place, whether or not that was kept: what a path would have had."""
    tree, path = Tree(block.parents), judgement.path
    families = met(tree, path)
    taken = [*path, *(children[0] for children in families[len(path) :])]
    acceptances = []
    for children, own in zip(families, taken, strict=True):
        first = positions[children[0]]
        if verification in _RATIO_LIKE and first.tv is not None:
            acceptances.append(1.0 - first.tv)
        else:
            acceptances.append(float(own == children[0] and own in path))
    is_rejected = len(families) > len(path)
    return RoundOutcome(
        drafted=tree.height if is_rejected else len(path),
        accepted=len(path),
        cap=cap,
        entropies=tuple(block.entropies[own] for own in taken),
        probabilities=tuple(math.exp(block.log_probabilities[own]) for own in taken),
        matched=(True,) * len(path) + (False,) * is_rejected,
        acceptances=tuple(acceptances),
        costs=costs,
        is_tree=True,
    )
