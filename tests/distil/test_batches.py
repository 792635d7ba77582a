"""Every answer is learnt from once in a pass, in an order that seed and pass alone decide; held-out ones never are."""

from __future__ import annotations

import pytest
import torch

from tandem.distil.batches import collate, in_batches, plan, prefetched
from tandem.distil.dataset import DataError, count_tokens, part, split
from tests.distil.answers import llama, write
from tests.models.checks import refused

LENGTHS = [4 + 7 * index % 29 for index in range(200)]


def test_each_pass_has_every_sequence_once_in_batches_of_the_size_asked_for() -> None:
    steps = plan(LENGTHS, seed=1, epochs=2, batch_tokens=100)
    half = len(steps) // 2
    for epoch in (steps[:half], steps[half:]):
        assert sorted(index for step in epoch for index in step) == list(range(200))
    assert all(len(step) * max(LENGTHS[index] for index in step) <= 100 for step in steps)
    assert steps[:half] != steps[half:]


def test_padding_is_little() -> None:
    steps = plan(LENGTHS, seed=1, epochs=1, batch_tokens=100)
    padded = sum(len(step) * max(LENGTHS[index] for index in step) for step in steps)
    assert padded < 1.15 * sum(LENGTHS)


def test_the_order_is_of_the_seed_alone() -> None:
    assert plan(LENGTHS, seed=1, epochs=1, batch_tokens=100) == plan(LENGTHS, seed=1, epochs=1, batch_tokens=100)
    assert plan(LENGTHS, seed=1, epochs=1, batch_tokens=100) != plan(LENGTHS, seed=2, epochs=1, batch_tokens=100)


def test_a_part_of_a_pass_is_its_beginning() -> None:
    first, both = (plan(LENGTHS, seed=1, epochs=epochs, batch_tokens=100) for epochs in (1, 2))
    second = both[len(first) :]
    assert plan(LENGTHS, seed=1, epochs=1.5, batch_tokens=100) == first + second[: round(len(second) / 2)]
    assert len(plan(LENGTHS, seed=1, epochs=1e-9, batch_tokens=100)) == 1


def test_a_sequence_that_is_longer_than_a_batch_has_one_of_its_own() -> None:
    assert in_batches([0, 1, 2], [3, 50, 3], 10) == [[0], [1], [2]]
    assert in_batches([0, 1, 2], [5, 5, 5], 10) == [[0, 1], [2]]


def test_a_batch_asks_after_the_last_token_of_the_prompt_and_every_token_of_the_answer_but_the_last() -> None:
    samples = write(llama(), 12)[:5]
    batch = collate(samples)
    width = batch.tokens.shape[1]
    asked = [(int(place) // width, int(place) % width) for place in batch.places]
    wanted = [
        (row, place - 1)
        for row, sample in enumerate(samples)
        for place in range(sample.prompt_length, len(sample.tokens))
    ]
    assert asked == wanted
    assert [int(samples[row].tokens[place + 1]) for row, place in asked] == batch.answers.tolist()
    assert torch.equal(batch.top_ids, torch.cat([sample.top_ids for sample in samples]))
    assert batch.counts == [len(sample.answer) for sample in samples]
    for row, sample in enumerate(samples):
        assert batch.tokens[row, : len(sample.tokens)].tolist() == sample.tokens.tolist()


def test_batches_come_in_order() -> None:
    samples = write(llama(), 12)
    found = list(prefetched(samples, [[0, 3], [1]], torch.device("cpu")))
    assert [len(batch.tokens) for batch in found] == [2, 1]
    assert found[1].tokens[0].tolist() == samples[1].tokens.tolist()


def test_all_answers_to_a_prompt_are_on_one_side_and_stay_there_when_there_are_more() -> None:
    first = write(llama(), 60)
    again = [*first, *write(llama(1), 60), *first]  # the same prompts, and another time
    few, many = split(first, 0.2), split(again, 0.2)

    def prompts(samples: list) -> set[tuple[int, ...]]:
        return {tuple(sample.tokens[: sample.prompt_length].tolist()) for sample in samples}

    assert prompts(few.held_out) and not prompts(few.held_out) & prompts(few.train)
    assert prompts(few.held_out) <= prompts(many.held_out) and prompts(few.train) <= prompts(many.train)
    assert prompts(again) == prompts(first) and not prompts(many.held_out) & prompts(many.train)
    assert len(few.held_out) + len(few.train) == 60
    assert 0.05 < len(few.held_out) / 60 < 0.4


def test_one_is_held_out_however_few_there_are_but_one_alone_is_too_few() -> None:
    samples = write(llama(), 6)
    assert len(split(samples, 1e-6).held_out) == 1
    with refused(DataError, "1 answers are too few to learn from", "data.tokens"):
        split(samples[:1], 0.02)


@pytest.mark.parametrize("share", [1 / 8, 1 / 4, 1 / 2, 1.0])
def test_a_part_has_its_share_of_the_tokens(share: float) -> None:
    samples = write(llama(), 100)
    assert count_tokens(part(samples, share)) == pytest.approx(share * count_tokens(samples), abs=20)
    assert part(samples, share) == samples[: len(part(samples, share))]
    assert len(part(samples, 1e-9)) == 1
