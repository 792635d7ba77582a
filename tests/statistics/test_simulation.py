"""The simulation is what the services do: the same tokens from the same seed, by the drafter and the verifier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from draft_service.drafters.base import SequenceSpec
from draft_service.drafters.model import ModelSequence
from tandem.inference.work import Timing, Work
from tandem.noise import NoiseStream, Purpose
from tandem.sampling import SamplingParams
from tandem.v1 import model_pb2, sampling_pb2
from target_service.verification import Rule, verify
from tests.rules.positions import candidate
from tests.statistics.exact import JUDGES
from tests.statistics.pairs import Pair, pairs
from tests.statistics.simulation import POSITION, Simulation, tabulate
from tests.statistics.trees import LIMITS, Drafting

RULES = {Rule.RATIO: sampling_pb2.VERIFICATION_RULE_RATIO, Rule.BLOCK: sampling_pb2.VERIFICATION_RULE_BLOCK}
PAIRS = pairs(4)
SEEDS = 150


class _Sequence:
    """Counts the tokens that a cache would hold."""

    length = 0

    def truncate(self, length: int) -> None:
        self.length = length

    def keep_path(self, tokens: Sequence[int]) -> None:
        """There is no tree."""


class TableEngine:
    """An engine whose logits after a token are a row of a table."""

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits

    async def run(self, work: Work) -> Timing:
        while (asked := work.next_block()) is not None:
            tokens, wanted = asked
            work.sequence.length += len(tokens)
            rows = list(tokens)[len(tokens) - wanted :]
            outcome = type(work).receive_all([work], [self._logits[rows]])[0]
            assert not isinstance(outcome, Exception)
        return Timing()

    async def release(self, sequence: object) -> None:
        """Nothing to free."""


def open_sequence(rule: Rule, pair: Pair, prompt: Sequence[int], seed: int, end_token: int | None) -> ModelSequence:
    spec = SequenceSpec(
        tokens=tuple(prompt),
        prompt_length=len(prompt),
        sampling=SamplingParams(temperature=1.0),
        verification=RULES[rule],
        noise=NoiseStream(seed),
        stop_token_ids=frozenset(() if end_token is None else (end_token,)),
        max_entries=pair.max_entries,
        mass=1.0,
    )
    info = model_pb2.ModelInfo(vocabulary_size=pair.size, context_length=100)
    return ModelSequence(TableEngine(pair.log_q), _Sequence(), spec, info)  # type: ignore[arg-type]


async def decode(rule: Rule, drafting: Drafting, start: int, seed: int, length: int) -> list[int]:
    """One completion by the services' own parts, put together as the orchestrator does."""
    pair, noise = drafting.pair, NoiseStream(seed)
    prompt = [0] * (POSITION - 1) + [start]
    text, attempt = list(prompt), 0
    sequence = open_sequence(rule, pair, prompt, seed, drafting.end_token)
    while len(text) < POSITION + length:
        attempt, position = attempt + 1, len(text)
        block = await sequence.draft(text, len(text) - 1, attempt, drafting.limits)
        states = [text[-1], *block.token_ids]
        numbers = verify(rule, pair.log_p[states], block.token_ids, block.rows, noise, position)
        passed = [
            noise.uniform(Purpose.ACCEPT, position + index, attempt) < chance
            for index, chance in enumerate(numbers.acceptance)
        ]
        kept = JUDGES[rule].judge([candidate(accepted=each) for each in passed]).kept
        whole = kept == len(block.token_ids)
        text += [*block.token_ids[:kept], (numbers.target_tokens if whole else numbers.corrections)[kept]]
    await sequence.close()
    return text[POSITION : POSITION + length]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("pair", "limits", "end_token"),
    [
        ("plain", "fixed 3", None),
        ("plain", "fixed 3", 1),
        ("plain", "entropy before", None),
        ("plain", "entropy before, at least one", None),
        ("far apart", "entropy after", None),
        ("top-p", "probability", None),
        ("top-k", "joint probability", None),
        ("cut", "all", None),
        ("zeros in p", "fixed 2", None),
        ("equal", "none", None),
    ],
)
async def test_a_simulated_completion_is_the_services_own(rule: Rule, pair: str, limits: str, end_token) -> None:
    drafting = Drafting(PAIRS[pair], LIMITS[limits], end_token=end_token)
    seeds = np.arange(SEEDS, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    simulation = Simulation(tabulate(rule, drafting), length=5)
    simulated = simulation.run(2, seeds).tolist()
    for seed, text in zip(seeds.tolist(), simulated, strict=True):
        assert await decode(rule, drafting, 2, seed, 5) == text
    assert simulation.rounds > 1


@pytest.mark.parametrize("limits", sorted(LIMITS))
async def test_the_drafter_submits_the_blocks_of_the_tree(limits: str) -> None:
    """What `trees.py` takes for granted when it enumerates blocks: where drafting ends, and what is sent."""
    for name in ("plain", "far apart", "top-p", "cut"):
        pair = PAIRS[name]
        drafting = Drafting(pair, LIMITS[limits])
        root = drafting.tree(1)
        for seed in range(25):
            sequence = open_sequence(Rule.RATIO, pair, [0, 1], seed, None)
            block = await sequence.draft([0, 1], 1, 7, drafting.limits)
            node = root
            for token in block.token_ids:
                assert node.block is None
                node = node.children[token]
            assert node.block == tuple(block.token_ids)
            for before, row in zip((1, *block.token_ids), block.rows, strict=False):
                assert torch.equal(row.token_ids, pair.rows[before].token_ids)
                torch.testing.assert_close(row.log_probs, pair.rows[before].log_probs, rtol=2e-3, atol=2e-3)
            await sequence.close()
