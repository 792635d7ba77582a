"""Speculative decoding of a million completions at once, by rounds, with the noise of each completion's own seed.

What a block's verification gives is tabulated from the production functions, once for each block; noise and draws are
the production code, on arrays. `test_simulation.py` shows that this is what the services do, token for token.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tandem.compression import law
from tandem.noise import Purpose
from tandem.sampling import inverse_cdf
from target_service.verification import Rule
from tests.statistics.exact import Verifier, kept_of
from tests.statistics.seeds import uniforms
from tests.statistics.trees import Drafting, Node

#: Absolute position of the first token that is decoded.
POSITION = 5
OWN_NOISE = {purpose: purpose for purpose in Purpose}


@dataclass(slots=True)
class Tables:
    """Everything that can happen, by number. N nodes of drafting, of the trees of all states; V tokens; M the cap.

    draw: [N, K] masses in the order of the row that is sent, ids: [N, K] their tokens; child: [N, V], -1 where
    none is. size: [N] of the submitted block, -1 where drafting goes on; tokens: [N, M]; acceptance: [N, M];
    corrections: [N, M + 1, V], the last used row being p after the whole block. kept: [M + 1, 2**M].
    """

    draw: Tensor
    ids: Tensor
    child: Tensor
    size: Tensor
    tokens: Tensor
    acceptance: Tensor
    corrections: Tensor
    kept: Tensor
    root: Tensor


def tabulate(rule: Rule, drafting: Drafting) -> Tables:
    pair, check = drafting.pair, Verifier(rule, drafting.pair)
    nodes: list[tuple[int, Node]] = []
    child: dict[tuple[int, int], int] = {}

    def number(start: int, node: Node) -> int:
        nodes.append((start, node))
        index = len(nodes) - 1
        for token, below in node.children.items():
            child[index, token] = number(start, below)
        return index

    root = torch.tensor([number(start, drafting.tree(start)) for start in range(pair.size)])
    count, size, most = len(nodes), pair.size, max(1, drafting.limits.max_tokens)
    found = Tables(
        draw=torch.zeros(count, size, dtype=torch.float64),
        ids=torch.zeros(count, size, dtype=torch.long),
        child=torch.full((count, size), -1),
        size=torch.full((count,), -1),
        tokens=torch.zeros(count, most, dtype=torch.long),
        acceptance=torch.zeros(count, most, dtype=torch.float64),
        corrections=torch.zeros(count, most + 1, size, dtype=torch.float64),
        kept=torch.tensor([_kept(rule, length, most) for length in range(most + 1)]),
        root=root,
    )
    for (index, token), below in child.items():
        found.child[index, token] = below
    for index, (start, node) in enumerate(nodes):
        if node.block is None:
            ids, q = law(pair.rows[node.state])
            found.ids[index, : len(ids)], found.draw[index, : len(q)] = ids, q
            continue
        length = len(node.block)
        acceptance, corrections = check(start, node.block)
        found.size[index] = length
        found.tokens[index, :length] = torch.tensor(node.block, dtype=torch.long)
        found.acceptance[index, :length] = torch.tensor(acceptance, dtype=torch.float64)
        found.corrections[index, :length] = corrections
        found.corrections[index, length] = pair.p[(start, *node.block)[-1]]
    return found


def _kept(rule: Rule, length: int, most: int) -> list[int]:
    """By the bits of what passed, the first candidate's lowest; bits beyond the block do not count."""
    patterns = (tuple(bits[::-1][:length]) for bits in itertools.product((False, True), repeat=most))
    return [kept_of(rule, pattern) for pattern in patterns]


@dataclass(slots=True)
class Simulation:
    """noise: the purpose whose stream serves a purpose; another than its own is a mutant. attempts: whether redraws
    have noise of their own."""

    tables: Tables
    length: int = 3
    noise: Mapping[Purpose, Purpose] = field(default_factory=lambda: OWN_NOISE)
    attempts: bool = True
    rounds: int = 0  # that some completion took
    drafted: int = 0  # candidates in all

    def run(self, start: int, seeds: np.ndarray) -> Tensor:
        """The first tokens of each completion: [n, length]."""
        tables, count = self.tables, len(seeds)
        text = torch.zeros(count, self.length + tables.tokens.shape[1] + 1, dtype=torch.long)
        emitted = torch.zeros(count, dtype=torch.long)
        last = torch.full((count,), start)
        self.rounds = 0
        while bool((active := emitted < self.length).any()):
            self.rounds += 1
            who = active.nonzero().squeeze(1)
            done = emitted[who]
            node = self._draft(seeds[who.numpy()], POSITION + done, tables.root[last[who]])
            kept, follows = self._verify(seeds[who.numpy()], POSITION + done, node)
            for index in range(tables.tokens.shape[1]):  # the candidates; what lies beyond the kept is overwritten
                text[who, done + index] = tables.tokens[node, index]
            text[who, done + kept] = follows
            emitted[who] += kept + 1
            last[who] = follows
            self.drafted += int(tables.size[node].sum())
        return text[:, : self.length]

    def _draft(self, seeds: np.ndarray, position: Tensor, node: Tensor) -> Tensor:
        tables, node = self.tables, node.clone()
        for index in range(tables.tokens.shape[1]):
            going = (tables.size[node] < 0).nonzero().squeeze(1)
            if len(going):
                at = node[going]
                u = self._uniform(seeds[going.numpy()], Purpose.DRAFT, position[going] + index)
                chosen = inverse_cdf(tables.draw[at], u).unsqueeze(1)
                node[going] = tables.child[at, tables.ids[at].gather(1, chosen).squeeze(1)]
        return node

    def _verify(self, seeds: np.ndarray, position: Tensor, node: Tensor) -> tuple[Tensor, Tensor]:
        tables = self.tables
        size = tables.size[node]
        pattern = torch.zeros_like(node)
        for index in range(tables.tokens.shape[1]):
            judged = (size > index).nonzero().squeeze(1)
            u = self._uniform(seeds[judged.numpy()], Purpose.ACCEPT, position[judged] + index)
            pattern[judged] += (u < tables.acceptance[node[judged], index]).long() << index
        kept = tables.kept[size, pattern]
        follows = torch.empty_like(kept)
        for purpose, chosen in ((Purpose.TARGET, kept == size), (Purpose.CORRECTION, kept < size)):
            rows = chosen.nonzero().squeeze(1)
            u = self._uniform(seeds[rows.numpy()], purpose, position[rows] + kept[rows])
            follows[rows] = inverse_cdf(tables.corrections[node[rows], kept[rows]], u)
        return kept, follows

    def _uniform(self, seeds: np.ndarray, purpose: Purpose, position: Tensor) -> Tensor:
        source = self.noise[purpose]
        drawn_again = source in (Purpose.DRAFT, Purpose.ACCEPT) and self.attempts
        return uniforms(seeds, source, position.numpy(), self.rounds if drawn_again else 0)


def counts(text: Tensor, size: int) -> Tensor:
    """How often each text of that length came: [V] * length."""
    length = text.shape[1]
    index = (text * size ** torch.arange(length - 1, -1, -1)).sum(1)
    return index.bincount(minlength=size**length).view((size,) * length)
