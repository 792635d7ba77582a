"""The exact law of the text that the production rules emit, by enumeration in float64: no sampling."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from orchestrator.acceptance import BlockVerification, RatioTest
from tandem.compression import CompressedRow
from tandem.noise import NoiseStream
from target_service import verification
from target_service.verification import Rule, verify
from tests.rules.positions import candidate
from tests.statistics.pairs import Pair
from tests.statistics.trees import Drafting, leaves

JUDGES = {Rule.RATIO: RatioTest(greedy=False), Rule.BLOCK: BlockVerification(greedy=False)}
EXACT = 1e-12


class Verifier:
    """Verifies blocks of a pair under a rule, each once."""

    def __init__(self, rule: Rule, pair: Pair) -> None:
        self.rule, self.pair = rule, pair
        self._known: dict[tuple[int, ...], tuple[list[float], Tensor]] = {}

    def __call__(self, start: int, block: tuple[int, ...]) -> tuple[list[float], Tensor]:
        """Acceptance [n], and the laws [n, V] that corrections are drawn from."""
        states = (start, *block)
        if states not in self._known:
            self._known[states] = self._verify(states)
        return self._known[states]

    def _verify(self, states: tuple[int, ...]) -> tuple[list[float], Tensor]:
        rows = [self.pair.rows[state] for state in states[:-1]]
        return verified(self.rule, self.pair, states, rows)


def verified(
    rule: Rule, pair: Pair, states: tuple[int, ...], rows: list[CompressedRow]
) -> tuple[list[float], Tensor]:
    """Acceptance [n] of the candidates after the first of `states`, which were drawn from `rows`, and the laws [n, V]
    that corrections are drawn from."""
    drawn_from: list[Tensor] = []
    draw = verification.inverse_cdf

    def watched(weights: Tensor, u: Tensor) -> Tensor:
        drawn_from.append(weights.clone())
        return draw(weights, u)

    with mock.patch.object(verification, "inverse_cdf", watched):
        numbers = verify(rule, pair.log_p[list(states)], states[1:], rows, NoiseStream(0), 0)
    own, corrections = drawn_from
    torch.testing.assert_close(own, pair.p[list(states)], rtol=0, atol=EXACT)  # the bonus is a draw from p
    return numbers.acceptance, corrections / corrections.sum(-1, keepdim=True)


@functools.cache
def kept_of(rule: Rule, passed: tuple[bool, ...]) -> int:
    """How many candidates the orchestrator keeps where these pass their test u < acceptance."""
    return JUDGES[rule].judge([candidate(accepted=each) for each in passed]).kept


def kept_chances(rule: Rule, acceptance: list[float]) -> list[float]:
    """The chance of keeping 0 .. n candidates; the u of each is independent."""
    chances = [0.0] * (len(acceptance) + 1)
    for passed in itertools.product((True, False), repeat=len(acceptance)):
        weight = 1.0
        for each, chance in zip(passed, acceptance, strict=True):
            weight *= chance if each else 1 - chance
        chances[kept_of(rule, passed)] += weight
    return chances


def emitted_law(
    rule: Rule,
    drafting: Drafting,
    start: int,
    length: int,
    *,
    check: Verifier | None = None,
    drawn: Callable[[int], Tensor] | None = None,
    submitted: Callable[[int, tuple[int, ...]], tuple[int, ...]] | None = None,
    proposed: Callable[[int], Iterable[tuple[tuple[int, ...], float]]] | None = None,
) -> Tensor:
    """Joint law [V] * length of the first tokens after `start`, over as many rounds as they take.

    check: what verifies, where its knowledge of blocks is to be shared; it must be of this rule and pair. drawn: the
    law that the draft draws from after a state, where it is not the one that it sends (a mutant). submitted: what is
    verified of a block after a state; all of it unless given. proposed: blocks after a state and their chances, where
    they come about otherwise than by `drafting`.
    """
    pair = drafting.pair
    check = check or Verifier(rule, pair)

    @functools.cache
    def blocks(state: int) -> tuple[tuple[tuple[int, ...], float], ...]:
        found: dict[tuple[int, ...], float] = {}
        for block, chance in leaves(drafting.tree(state), pair) if proposed is None else proposed(state):
            if drawn is not None:
                chance = 1.0
                for before, token in zip((state, *block), block, strict=False):
                    chance *= float(drawn(before)[token])
            if submitted is not None:
                block = submitted(state, block)
            found[block] = found.get(block, 0.0) + chance
        return tuple(found.items())

    @functools.cache
    def law(state: int, left: int) -> Tensor:
        total = torch.zeros((pair.size,) * left, dtype=torch.float64)
        for block, chance in blocks(state):
            acceptance, corrections = check(state, block)
            for kept, weight in enumerate(kept_chances(rule, acceptance)):
                follows = pair.p[(state, *block)[kept]] if kept == len(block) else corrections[kept]
                if kept >= left:
                    total[block[:left]] += chance * weight
                    continue
                share = chance * weight * follows
                if kept + 1 < left:  # the next round starts after the correction or the bonus
                    rest = torch.stack([law(token, left - kept - 1) for token in range(pair.size)])
                    share = share.view(-1, *[1] * (left - kept - 1)) * rest
                total[block[:kept]] += share
        return total

    return law(start, length)


def error(rule: Rule, drafting: Drafting, length: int = 3, **options: Any) -> float:
    """How far the law is from the target's own, at most, over all starts."""
    return max(
        float((emitted_law(rule, drafting, start, length, **options) - drafting.pair.joint(start, length)).abs().max())
        for start in range(drafting.pair.size)
    )
