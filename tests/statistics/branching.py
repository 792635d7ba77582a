"""All trees that a draft can make of a pair, what the production rules make of each, and the law that comes of it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor

from orchestrator.trees.walk import walk
from tandem.noise import NoiseStream
from tandem.trees import ROOT, Tree
from target_service import verification
from target_service.verification import Block, BlockNumbers, Rule, verify_many
from tests.rules.positions import candidate
from tests.statistics.pairs import Pair


@dataclass(frozen=True, slots=True)
class Drafted:
    tree: Tree
    tokens: tuple[int, ...]


def orders(q: Sequence[float], count: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Draws without replacement, with their chances; fewer where there are not so many tokens."""
    if not count or not any(q):
        yield (), 1.0
        return
    total = sum(q)
    for token, mass in enumerate(q):
        if mass > 0:
            rest = [0.0 if other == token else each for other, each in enumerate(q)]
            for behind, chance in orders(rest, count - 1):
                yield (token, *behind), chance * mass / total


def drafts(pair: Pair, start: int, shape: Tree) -> Iterator[tuple[Drafted, float]]:
    """All trees of a shape, with their chances; a branch is missing where a law has not so many tokens."""
    yield from _grow(pair, start, shape, [(ROOT, ROOT)], (), (), 1.0)


def _grow(pair, start, shape, waiting, parents, tokens, chance):
    if not waiting:
        yield Drafted(Tree(parents), tokens), chance
        return
    (in_shape, in_block), rest = waiting[0], waiting[1:]
    children = shape.children(in_shape)
    state = tokens[in_block] if in_block != ROOT else start
    for order, weight in orders(pair.q(state).tolist(), len(children)):
        below = [(child, len(tokens) + at) for at, (child, _) in enumerate(zip(children, order, strict=False))]
        behind = [each for each in below if shape.children(each[0])]
        yield from _grow(
            pair, start, shape, [*rest, *behind], (*parents, *[in_block] * len(order)), (*tokens, *order),
            chance * weight,
        )  # fmt: skip


def numbers(rule: Rule, pair: Pair, start: int, drafted: Drafted) -> tuple[BlockNumbers, dict[int, Tensor]]:
    """What the target says of a tree, and for each place that has candidates the law of its correction."""
    tree, tokens, drawn = drafted.tree, drafted.tokens, []
    states = [start, *tokens]
    rows = [pair.rows[states[parent + 1]] for parent in tree.parents]
    draw = verification.inverse_cdf

    def watched(weights: Tensor, u: Tensor) -> Tensor:
        drawn.append(weights.clone())
        return draw(weights, u)

    block = Block(rule, tokens, rows, NoiseStream(0), 0, tree=tree)
    with mock.patch.object(verification, "inverse_cdf", watched):
        [found] = verify_many([block], [pair.log_p[states]])
    assert isinstance(found, BlockNumbers), found
    laws = drawn[1] / drawn[1].sum(-1, keepdim=True)
    return found, dict(zip(tree.families, laws, strict=True))


@functools.cache
def walked(parents: tuple[int, ...], passed: tuple[bool, ...]) -> tuple[int, ...]:
    """The path that the orchestrator keeps where these candidates pass their tests."""
    return walk(Tree(parents), [candidate(accepted=each) for each in passed]).path


def round_law(
    pair: Pair, start: int, drafted: Drafted, length: int, *, rule: Rule = Rule.RATIO
) -> Tensor:
    """Joint law [V] * length of the tokens after `start` where this tree is verified, and the target goes on alone."""
    tree, total = drafted.tree, torch.zeros((pair.size,) * length, dtype=torch.float64)
    found, corrections = numbers(rule, pair, start, drafted)
    for passed in itertools.product((True, False), repeat=len(tree)):
        weight = 1.0
        for each, chance in zip(passed, found.acceptance, strict=True):
            weight *= chance if each else 1 - chance
        if not weight:
            continue
        path = walked(tree.parents, passed)
        text = tuple(drafted.tokens[index] for index in path)
        above = path[-1] if path else ROOT
        follows = corrections[above] if tree.children(above) else pair.p[text[-1] if text else start]
        if len(text) >= length:
            total[text[:length]] += weight
            continue
        for token in range(pair.size):
            rest = length - len(text) - 1
            behind = pair.joint(token, rest) if rest else torch.ones((), dtype=torch.float64)
            total[(*text, token)] += weight * follows[token] * behind
    return total


def law(pair: Pair, start: int, trees: Iterable[tuple[Drafted, float]], length: int) -> Tensor:
    """Over trees with their chances."""
    total = torch.zeros((pair.size,) * length, dtype=torch.float64)
    merged: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}
    for drafted, chance in trees:
        key = drafted.tree.parents, drafted.tokens
        merged[key] = merged.get(key, 0.0) + chance
    for (parents, tokens), chance in merged.items():
        if not parents:
            total += chance * pair.joint(start, length)
        else:
            total += chance * round_law(pair, start, Drafted(Tree(parents), tokens), length)
    return total
