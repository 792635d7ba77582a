"""The way through a verified tree (SpecInfer, arXiv 2305.09781, algorithm 2; recursive rejection, arXiv 2402.14160)."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.acceptance import Judgement, Position, Source
from orchestrator.acceptance.lossless import accepts
from tandem.trees import ROOT, Tree


def walk(tree: Tree, block: Sequence[Position]) -> Judgement:
    """From the text down: of siblings, in their order, the first that its own test accepts at its turn; where there is
    none, the correction of that place; behind a candidate without children the bonus. Lossless under every exact rule.

    Under greedy and coupled the target's token is at most one of the siblings; under ratio and block the chance of each
    is given that those before were rejected, and each test has a u of its own.
    """
    path: list[int] = []
    above, correction = ROOT, None
    while children := tree.children(above):
        taken = next((child for child in children if accepts(block[child])), None)
        if taken is None:
            correction = block[children[-1]].correction
            break
        path.append(taken)
        above = taken
    return Judgement(
        kept=len(path), sources=(Source.MATCHED,) * len(path), next_token=correction, path=tuple(path)
    )


def met(tree: Tree, path: Sequence[int]) -> list[tuple[int, ...]]:
    """The siblings that were judged on a path, from the text down."""
    return [children for above in (ROOT, *path) if (children := tree.children(above))]
