"""All the blocks that a draft can make of a pair under some limits, with the chance of each."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field

from tandem.block_limits import Limiter
from tandem.distributions import entropy
from tandem.v1 import draft_pb2
from tests.statistics.pairs import Pair

Limits = draft_pb2.DraftLimits
Curve = draft_pb2.AcceptanceCurve

#: One for every limit that the draft knows, and some together. Those on entropy and probability take the values that
#: part the rows of `tests.statistics.pairs`.
LIMITS: dict[str, Limits] = {
    "none": Limits(max_tokens=0),
    "fixed 1": Limits(max_tokens=1),
    "fixed 2": Limits(max_tokens=2),
    "fixed 3": Limits(max_tokens=3),
    "entropy before": Limits(max_tokens=3, max_entropy_before=0.96),
    "entropy before, at least one": Limits(max_tokens=3, min_tokens=1, max_entropy_before=0.93),
    "entropy after": Limits(max_tokens=3, max_entropy_after=0.96),
    "probability": Limits(max_tokens=3, min_probability=0.4),
    "joint probability": Limits(max_tokens=3, min_joint_probability=0.3),
    "survival": Limits(
        max_tokens=3, min_survival=[0.5], acceptance_curve=Curve(entropies=[0.93, 0.97], acceptances=[0.9, 0.4])
    ),
    "all": Limits(
        max_tokens=3, max_entropy_before=1.0, max_entropy_after=0.95, min_probability=0.2, min_joint_probability=0.1
    ),
}


@dataclass(slots=True)
class Node:
    """A prefix that was drafted; block: what is submitted where drafting ends here, None where it goes on."""

    state: int
    tokens: tuple[int, ...]
    block: tuple[int, ...] | None = None
    children: dict[int, Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drafting:
    """How blocks come about. end_token: ends a block. drops: the mutant that drops the token that ends a block."""

    pair: Pair
    limits: Limits
    end_token: int | None = None
    drops: bool = False

    def tree(self, start: int) -> Node:
        return self._grow(start, (), Limiter(self.limits))

    def _grow(self, start: int, tokens: tuple[int, ...], limiter: Limiter) -> Node:
        node = Node(tokens[-1] if tokens else start, tokens)
        q = self.pair.q(node.state)
        if tokens:
            before = self.pair.q(tokens[-2] if len(tokens) > 1 else start)
            reached = limiter.after(float(entropy(before.log())), float(before[tokens[-1]].log()))
            if tokens[-1] == self.end_token or reached is not None:
                node.block = tokens[:-1] if self.drops else tokens
        is_full = len(tokens) >= self.limits.max_tokens
        if node.block is None and (is_full or limiter.refuses(float(entropy(q.log())))):
            node.block = tokens
        if node.block is None:
            for token, chance in enumerate(q.tolist()):
                if chance > 0:
                    node.children[token] = self._grow(start, (*tokens, token), copy(limiter))
        return node


def leaves(node: Node, pair: Pair, chance: float = 1.0) -> Iterator[tuple[tuple[int, ...], float]]:
    """Blocks and the chances with which a draft that draws from q submits them; a block may come more than once."""
    if node.block is not None:
        yield node.block, chance
        return
    q = pair.q(node.state)
    for token, child in node.children.items():
        yield from leaves(child, pair, chance * float(q[token]))
