"""What a draft knows of the target's features along its text, whatever comes in which order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from draft_service.drafters.base import SequenceSpec
from draft_service.drafters.features import FeaturesSequence
from tandem.noise import NoiseStream
from tandem.sampling import SamplingParams
from tandem.v1 import draft_pb2, model_pb2, sampling_pb2

INFO = model_pb2.ModelInfo(context_length=40, vocabulary_size=64)
LIMITS = draft_pb2.DraftLimits(max_tokens=3)


@pytest.fixture
def sequence() -> FeaturesSequence:
    """Of a prompt of four tokens; nothing of it is run."""
    spec = SequenceSpec(
        (1, 2, 3, 4), 4, SamplingParams(temperature=0.0), sampling_pb2.VERIFICATION_RULE_GREEDY, NoiseStream(0),
        frozenset(), 0, 1.0,
    )  # fmt: skip
    nothing: Any = None
    return FeaturesSequence(nothing, nothing, spec, INFO)


def features(*names: int) -> torch.Tensor:
    return torch.tensor([[float(name)] for name in names])


def known(sequence: FeaturesSequence) -> tuple[int, list[int]]:
    return sequence.first, [int(each) for each in sequence.given]


def test_what_comes_is_put_behind_what_there_is(sequence: FeaturesSequence) -> None:
    sequence.fed([1, 2, 3, 4, 5], features(12, 13, 14, 15))
    assert known(sequence) == (1, [12, 13, 14, 15])
    sequence.fed([1, 2, 3, 4, 5, 6, 7], features(16, 17))
    assert known(sequence) == (1, [12, 13, 14, 15, 16, 17])


def test_what_is_told_again_takes_the_place_of_what_was_there(sequence: FeaturesSequence) -> None:
    sequence.fed([1, 2, 3, 4, 5], features(12, 13, 14, 15))
    sequence.fed([1, 2, 3, 4, 5, 6], features(24, 25, 26))
    assert known(sequence) == (1, [12, 13, 24, 25, 26])


def test_behind_a_gap_or_with_more_of_the_prompt_it_begins_anew(sequence: FeaturesSequence) -> None:
    sequence.fed([1, 2, 3, 4, 5], features(14, 15))
    sequence.valid = 2
    sequence.fed([1, 2, 3, 4, 5, 6, 7], features(17))
    assert known(sequence) == (6, [17]) and sequence.valid == 0
    sequence.fed([1, 2, 3, 4, 5, 6, 7, 8], features(*range(10, 17)))
    assert known(sequence) == (1, [*range(10, 17)])


def test_of_a_text_that_is_taken_back_it_keeps_what_still_holds(sequence: FeaturesSequence) -> None:
    """The feature before the token that has changed has read none but the same tokens; what was read with a token that
    has changed has not."""
    sequence.fed([1, 2, 3, 4, 5, 6], features(11, 12, 13, 14, 15))
    sequence.valid = 5
    sequence.fed([1, 2, 3, 4, 9, 8], features(28))
    assert known(sequence) == (1, [11, 12, 13, 14, 28]) and sequence.valid == 3
    sequence.fed([1, 2, 3, 7, 9, 8], features(38))  # nothing is known before 9
    assert known(sequence) == (5, [38]) and sequence.valid == 0


@pytest.mark.parametrize(("more", "stop"), [(9, draft_pb2.DRAFT_STOP_NO_PROPOSAL), (40, draft_pb2.DRAFT_STOP_CONTEXT)])
def test_over_many_tokens_without_features_it_is_silent(sequence: FeaturesSequence, more: int, stop: int) -> None:
    async def draft(tokens: list[int]) -> int:
        block = await sequence.draft(tokens, len(tokens), 1, LIMITS)
        assert block.token_ids == []
        return block.stop

    assert asyncio.run(draft([1, 2, 3, 4])) == draft_pb2.DRAFT_STOP_NO_PROPOSAL  # it knows nothing yet
    sequence.fed([1, 2, 3, 4], features(12, 13, 14))
    assert asyncio.run(draft([1, 2, 3, 4, *[5] * more])) == stop


def test_a_silent_one_forgets_the_candidates_that_it_made_before(sequence: FeaturesSequence) -> None:
    """Of a block of 5 6 7 only 5 was kept: what is told next of the text goes on from there."""
    sequence._history.become([5, 6, 7], 0)
    silent = sequence.draft([1, 2, 3, 4, 5, 8], 5, 2, LIMITS)
    assert asyncio.run(silent).stop == draft_pb2.DRAFT_STOP_NO_PROPOSAL
    assert list(sequence._history.generated) == [5, 8]
