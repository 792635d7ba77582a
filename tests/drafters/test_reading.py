"""Drafters without a model: what they propose, by hand, and that they draw from exactly the numbers that they send."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from unittest import mock

import pytest
import torch

from draft_service.drafters import drawing
from draft_service.drafters.base import Candidates, SequenceSpec
from draft_service.drafters.prompt_lookup import PromptLookupDrafter
from draft_service.drafters.reading import ReadingDrafter
from draft_service.drafters.stand import StandDrafter
from draft_service.drafters.suffix import SuffixDrafter
from tandem.distributions import compress, law
from tandem.gumbel import gumbel_argmax
from tandem.noise import NoiseStream
from tandem.sampling import SamplingParams
from tandem.v1 import draft_pb2, sampling_pb2

GREEDY, RATIO, BLOCK, COUPLED = (
    sampling_pb2.VERIFICATION_RULE_GREEDY, sampling_pb2.VERIFICATION_RULE_RATIO,
    sampling_pb2.VERIFICATION_RULE_BLOCK, sampling_pb2.VERIFICATION_RULE_COUPLED,
)  # fmt: skip


def spec(rule: sampling_pb2.VerificationRule.ValueType = GREEDY, *, entries: int = 0, seed: int = 0) -> SequenceSpec:
    sampling = SamplingParams(temperature=0.0 if rule == GREEDY else 1.0)
    return SequenceSpec((1,), 1, sampling, rule, NoiseStream(seed), frozenset({9}), entries, 1.0)


async def drafted(
    drafter: ReadingDrafter, text: Sequence[int], most: int = 6, of: SequenceSpec | None = None, **limits: float
) -> Candidates:
    sequence = await drafter.open(of or spec())
    return await sequence.draft(text, 0, 1, draft_pb2.DraftLimits(max_tokens=most, **limits))


async def test_prompt_lookup_takes_the_last_place_and_suffix_the_longest_match() -> None:
    """After 1 2 3 4 there was 5 at first, 6 after 2 3 4 the last time, and 7 after 4 alone."""
    text = [1, 2, 3, 4, 5, 0, 2, 3, 4, 6, 0, 8, 4, 7, 1, 2, 3, 4]
    assert (await drafted(PromptLookupDrafter(), text, 2)).token_ids == [6, 0]
    assert (await drafted(SuffixDrafter(), text, 2)).token_ids == [5, 0]


async def test_a_suffix_that_runs_into_the_end_of_the_text_goes_on_with_what_it_drafts() -> None:
    """4 5 4 5 4: `4 5 4` was there at first, `5 4` followed it; then the loop goes on."""
    assert (await drafted(SuffixDrafter(), [4, 5, 4, 5, 4], 6)).token_ids == [5, 4, 5, 4, 5, 4]


async def test_they_are_silent_where_too_little_is_found_again() -> None:
    text = [1, 2, 3, 7, 1, 2, 3]
    for drafter in (PromptLookupDrafter(least=3), SuffixDrafter(least=3)):
        assert (await drafted(drafter, text)).token_ids[:1] == [7]
        block = await drafted(drafter, text[:-1])
        assert (block.token_ids, block.stop) == ([], draft_pb2.DRAFT_STOP_NO_PROPOSAL)
    assert (await drafted(SuffixDrafter(least=4), text)).token_ids == []


@pytest.mark.parametrize("most", [2, 3, 8, 1000])
async def test_a_bounded_automaton_knows_the_last_half_of_its_tokens(most: int) -> None:
    """The text grows by some tokens at a time, as texts do."""
    text = [(7 * index * index) % 11 for index in range(300)]
    bounded = await SuffixDrafter(most_tokens=most).open(spec())
    whole = await SuffixDrafter().open(spec())
    limits = draft_pb2.DraftLimits(max_tokens=4)
    for end in [*range(1, 250, 3), 300]:
        found = await bounded.draft(text[:end], end, end, limits)
        assert len(bounded._automaton) <= most and len(bounded._automaton) >= min(end, most // 2)
        if end <= most:
            assert found.token_ids == (await whole.draft(text[:end], end, end, limits)).token_ids
        kept = text[end - len(bounded._automaton) : end]
        assert found.token_ids == (await drafted(SuffixDrafter(), kept, 4)).token_ids


@pytest.mark.parametrize("make", [PromptLookupDrafter, SuffixDrafter, partial(SuffixDrafter, most_tokens=40)])
async def test_what_was_taken_back_of_a_text_is_forgotten(make: Callable[[], ReadingDrafter]) -> None:
    """The text grows, is cut, and goes on otherwise; each time the proposal is that of a sequence of just this text."""
    chance = random.Random(5)
    sequence, text = await make().open(spec()), [1, 2, 3]
    limits = draft_pb2.DraftLimits(max_tokens=6)
    same, found = len(text), 0
    for number in range(120):
        block = await sequence.draft(text, same, number, limits)
        fresh = await (await make().open(spec())).draft(text, 0, number, limits)
        if len(text) <= 40:  # a bounded one may have begun anew at another place
            assert block.token_ids == fresh.token_ids
        found += len(block.token_ids)
        del text[max(3, len(text) - chance.choice([0, 0, 1, 4, 9])) :]
        same = len(text)
        text += [chance.randrange(3) for _ in range(chance.randint(1, 6))]
    assert found > 120 and len(text) > 40


async def test_a_copied_candidate_comes_with_a_point_mass_and_an_end_token_ends_the_block() -> None:
    block = await drafted(SuffixDrafter(), [3, 9, 5, 3], of=spec(RATIO, entries=4))
    assert (block.token_ids, block.stop) == ([9], draft_pb2.DRAFT_STOP_END_TOKEN)
    [row] = block.rows
    assert (row.token_ids.tolist(), law(row)[1].tolist(), row.tail_mass) == ([9], [1.0], 0.0)
    assert block.log_probabilities == block.entropies == [0.0]


async def test_nothing_is_drafted_where_nothing_is_wanted() -> None:
    block = await drafted(SuffixDrafter(), [3, 3, 3], 0)
    assert (block.token_ids, block.stop) == ([], draft_pb2.DRAFT_STOP_MAX_TOKENS)


ROW = compress(torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0]).log(), 10)


async def stand(of: SequenceSpec, most: int = 1, **limits: float) -> Candidates:
    """After 1 2 the target has said ROW."""
    sequence = await StandDrafter().open(of)
    sequence.told([1, 2, 4], [ROW])
    return await sequence.draft([1, 2, 4, 1, 2], 0, 3, draft_pb2.DraftLimits(max_tokens=most, **limits))


async def test_stand_says_what_the_target_said_after_the_same_tokens() -> None:
    block = await stand(spec(entries=8), 5)
    assert (block.token_ids, block.stop) == ([0], draft_pb2.DRAFT_STOP_NO_PROPOSAL)  # nothing is known after 2 0
    [row] = block.rows
    assert row.token_ids.tolist() == [0, 1, 2, 3] and row.tail_mass == 0
    torch.testing.assert_close(law(row)[1], torch.tensor([0.5, 0.3, 0.15, 0.05]).double(), rtol=2e-3, atol=0)
    entropy = -sum(p * math.log(p) for p in (0.5, 0.3, 0.15, 0.05))
    assert block.entropies == [pytest.approx(entropy, rel=2e-3)]
    assert block.log_probabilities == [pytest.approx(math.log(0.5), rel=2e-3)]


@pytest.mark.parametrize("rule", [GREEDY, COUPLED])
async def test_what_stand_sends_has_no_tail_that_could_be_asked_for(
    rule: sampling_pb2.VerificationRule.ValueType,
) -> None:
    """Cut to two entries, .5 and .3 become the whole law."""
    block = await stand(spec(rule, entries=2))
    [row] = block.rows
    assert row.tail_mass == 0 and row.token_ids.tolist() == [0, 1]
    torch.testing.assert_close(law(row)[1], torch.tensor([0.625, 0.375]).double(), rtol=2e-3, atol=0)


async def test_stand_ends_a_block_before_a_law_that_says_too_little() -> None:
    block = await stand(spec(), 5, max_entropy_before=1.0)
    assert (block.token_ids, block.stop) == ([], draft_pb2.DRAFT_STOP_ENTROPY_BEFORE)


async def test_stand_is_silent_at_first_and_where_its_text_says_nothing() -> None:
    sequence = await StandDrafter().open(spec())
    limits = draft_pb2.DraftLimits(max_tokens=5)
    assert (await sequence.draft([1, 2, 1, 2], 0, 1, limits)).stop == draft_pb2.DRAFT_STOP_NO_PROPOSAL


async def test_tables_are_a_texts_own_unless_they_are_to_be_shared() -> None:
    limits = draft_pb2.DraftLimits(max_tokens=1)
    for shares in (False, True):
        drafter = StandDrafter(shares=shares)
        one, other = await drafter.open(spec()), await drafter.open(spec())
        one.told([1, 2, 4], [ROW])
        assert (await one.draft([1, 2], 0, 1, limits)).token_ids == [0]
        assert (await other.draft([1, 2], 0, 1, limits)).token_ids == ([0] if shares else [])


@pytest.mark.parametrize("rule", [RATIO, BLOCK])
@pytest.mark.parametrize("entries", [1, 2, 3, 8])
async def test_stand_draws_from_exactly_the_numbers_that_it_sends(
    rule: sampling_pb2.VerificationRule.ValueType, entries: int
) -> None:
    drawn_from: list[torch.Tensor] = []
    draw = drawing.inverse_cdf

    def watched(weights: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        drawn_from.append(weights.clone())
        return draw(weights, u)

    seen = set()
    with mock.patch.object(drawing, "inverse_cdf", watched):
        for seed in range(60):
            block = await stand(spec(rule, entries=entries, seed=seed))
            [row] = block.rows
            ids, q = law(row)
            assert torch.equal(drawn_from[-1][0], q) and row.tail_mass == 0 and len(ids) == min(entries, 4)
            # The stream of the contract: seed, position 5, the round as attempt.
            u = NoiseStream(seed).uniform(drawing.Purpose.DRAFT, 5, 3)
            assert block.token_ids == [int(ids[int((q.cumsum(0) <= u).sum())])]
            assert block.log_probabilities[0] == float(q[ids.tolist().index(block.token_ids[0])].log())
            seen.add(block.token_ids[0])
    assert len(seen) == min(entries, 4)


async def test_coupled_stand_draws_with_the_noise_that_the_target_draws_with() -> None:
    """Its law is the target's here, and so is its draw."""
    log_p = torch.full((5,), -math.inf)
    log_p[ROW.token_ids] = ROW.log_probs.float()
    seen = set()
    for seed in range(40):
        [token] = (await stand(spec(COUPLED, seed=seed))).token_ids
        assert token == gumbel_argmax(log_p, NoiseStream(seed), 5)
        seen.add(token)
    assert len(seen) > 2
