"""Drafters without a model, alone and combined: the law of the text is the target's own, by enumeration.

The target's next token depends on its last one only. Every block that the drafter may make of a text is enumerated by
choosing its draws, with the weights that it was about to draw from as chances; each is verified and judged as in
production.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from unittest import mock

import pytest
import torch
from torch import Tensor

from draft_service.drafters import drawing
from draft_service.drafters.base import Candidates, Drafter, SequenceSpec
from draft_service.drafters.combined import CombinedDrafter
from draft_service.drafters.prompt_lookup import PromptLookupDrafter
from draft_service.drafters.stand import StandDrafter
from draft_service.drafters.suffix import SuffixDrafter
from tandem.compression import truncate_law
from tandem.noise import NoiseStream
from tandem.sampling import SamplingParams
from tandem.v1 import draft_pb2, sampling_pb2
from target_service.verification import Rule
from tests.statistics.exact import EXACT, kept_chances, verified
from tests.statistics.pairs import Pair, random_pair

SIZE = 3
PROMPT = (0, 1, 2, 0, 0, 1)
MESSAGES = {Rule.RATIO: sampling_pb2.VERIFICATION_RULE_RATIO, Rule.BLOCK: sampling_pb2.VERIFICATION_RULE_BLOCK}
DRAFTERS: dict[str, Callable[[], Drafter]] = {
    "prompt-lookup": PromptLookupDrafter,
    "suffix": SuffixDrafter,
    "stand": StandDrafter,
    "suffix+stand": lambda: CombinedDrafter([SuffixDrafter(least=3), StandDrafter()]),
    "stand+suffix": lambda: CombinedDrafter([StandDrafter(), SuffixDrafter()]),
}
LIMITS = {
    "fixed": draft_pb2.DraftLimits(max_tokens=2),
    "entropy before": draft_pb2.DraftLimits(max_tokens=2, max_entropy_before=0.9),
    "probability": draft_pb2.DraftLimits(max_tokens=2, min_probability=0.4),
}


class Blocks:
    """All blocks that a drafter makes of a text, with their chances."""

    def __init__(self, make: Callable[[], Drafter], pair: Pair, rule: Rule, limits: draft_pb2.DraftLimits) -> None:
        self._make, self._pair, self._rule, self._limits = make, pair, rule, limits
        self._laws = [truncate_law(row, SIZE) for row in pair.log_p]  # what the target says of itself

    def __call__(self, text: tuple[int, ...]) -> Iterator[tuple[Candidates, float]]:
        ahead: list[list[int]] = [[]]
        while ahead:
            choices = ahead.pop()
            block, weights = self._one(text, choices)
            chance = 1.0
            for index, row in enumerate(weights):
                if index == len(choices):  # beyond what was chosen it took the first; the others are for later
                    ahead += [[*choices, other] for other in range(1, len(row)) if row[other] > 0]
                    choices = [*choices, 0]
                chance *= float(row[choices[index]] / row.sum())
            yield block, chance

    def _one(self, text: tuple[int, ...], choices: list[int]) -> tuple[Candidates, list[Tensor]]:
        """The block whose draws are these; the weights of all its draws."""
        weights: list[Tensor] = []

        def chosen(rows: Tensor, u: Tensor) -> Tensor:
            weights.append(rows[0].clone())
            return torch.tensor([choices[len(weights) - 1] if len(weights) <= len(choices) else 0])

        rule = MESSAGES[self._rule]
        spec = SequenceSpec(
            text, len(PROMPT), SamplingParams(temperature=1.0), rule, NoiseStream(0), frozenset(), SIZE, 1.0
        )
        with mock.patch.object(drawing, "inverse_cdf", chosen):
            try:
                _finish(self._drafted(spec, text)).send(None)
            except StopIteration as done:
                return done.value, weights
        raise AssertionError("it waited for something")

    async def _drafted(self, spec: SequenceSpec, text: tuple[int, ...]) -> Candidates:
        drafter = self._make()
        sequence = await drafter.open(spec)
        if drafter.target_entries:
            sequence.told(text, [self._laws[token] for token in text[:-1]])
        return await sequence.draft(text, 0, 1, self._limits)


def _finish(work):
    """A coroutine that never waits, run to its end."""
    return work.__await__()


def emitted(blocks: Blocks, pair: Pair, rule: Rule, length: int) -> Tensor:
    """Joint law [V] * length of what follows PROMPT."""

    @functools.cache
    def law(text: tuple[int, ...], left: int) -> Tensor:
        total = torch.zeros((SIZE,) * left, dtype=torch.float64)
        for block, chance in blocks(text):
            tokens = tuple(block.token_ids)
            acceptance, corrections = verified(rule, pair, (text[-1], *tokens), block.rows)
            for kept, weight in enumerate(kept_chances(rule, acceptance)):
                follows = pair.p[(text[-1], *tokens)[kept]] if kept == len(tokens) else corrections[kept]
                if kept >= left:
                    total[tokens[:left]] += chance * weight
                    continue
                share = chance * weight * follows
                if kept + 1 < left:
                    rest = [law((*text, *tokens[:kept], token), left - kept - 1) for token in range(SIZE)]
                    share = share.view(-1, *[1] * (left - kept - 1)) * torch.stack(rest)
                total[tokens[:kept]] += share
        return total

    return law(PROMPT, length)


@pytest.mark.parametrize("rule", MESSAGES)
@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("name", DRAFTERS)
def test_the_joint_law_of_three_tokens_is_the_targets(name: str, limits: str, rule: Rule) -> None:
    pair = random_pair(SIZE, 5)
    blocks = Blocks(DRAFTERS[name], pair, rule, LIMITS[limits])
    found = emitted(blocks, pair, rule, 3)
    assert float((found - pair.joint(PROMPT[-1], 3)).abs().max()) < EXACT


@pytest.mark.parametrize("name", DRAFTERS)
def test_the_blocks_are_worth_looking_at(name: str) -> None:
    """Otherwise the test above would say little."""
    pair = random_pair(SIZE, 5)
    found = list(Blocks(DRAFTERS[name], pair, Rule.RATIO, LIMITS["fixed"])(PROMPT))
    assert sum(chance for _, chance in found) == pytest.approx(1)
    assert all(block.token_ids for block, _ in found)
    tokens = [tuple(block.token_ids) for block, _ in found]
    if "stand" in name:  # of what may follow (0, 1) it knows how (1, 2) went on
        assert sorted(tokens) == [(0,), (1,), (2, 0), (2, 1), (2, 2)]
    else:
        assert len(tokens) == 1 and len(tokens[0]) == 2


def test_a_draft_that_sends_another_law_than_it_draws_from_is_found() -> None:
    """The mutant rounds what it sends once more, to halves."""
    pair = random_pair(SIZE, 5)
    blocks = Blocks(StandDrafter, pair, Rule.RATIO, LIMITS["fixed"])

    def spoilt(text: tuple[int, ...]) -> Iterator[tuple[Candidates, float]]:
        for block, chance in Blocks.__call__(blocks, text):
            block.rows = [type(row)(row.token_ids, (row.log_probs * 2).round() / 2, 0.0) for row in block.rows]
            yield block, chance

    found = emitted(spoilt, pair, Rule.RATIO, 2)  # type: ignore[arg-type]
    assert float((found - pair.joint(PROMPT[-1], 2)).abs().max()) > 1e-3
