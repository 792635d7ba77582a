"""What a draft can say is what its target says most."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tandem.distil.shards import Sample
from tandem.distil.vocabulary import Vocabulary, choose, unusual
from tests.distil.answers import VOCABULARY, llama, write
from tests.models.small_tokenizers import SPECIAL, byte_fallback_tokenizer
from tests.support.tokens import byte_tokenizer


def sample(answer: list[int], top: list[dict[int, float]]) -> Sample:
    """top: probabilities by token, of each place."""
    return Sample(
        tokens=torch.tensor([1, *answer], dtype=torch.int32),
        prompt_length=1,
        temperature=1.0,
        top_ids=torch.tensor([list(each) for each in top], dtype=torch.int32),
        top_log_probs=torch.tensor([list(each.values()) for each in top]).log().half(),
    )


SAID = [sample([5, 5, 9], [{5: 0.5, 3: 0.25}, {5: 0.5, 3: 0.25}, {9: 0.5, 2: 0.125}])]


def ids(vocabulary: Vocabulary) -> list[int]:
    assert vocabulary.token_ids.dtype == torch.int32
    return vocabulary.token_ids.tolist()


def chosen(size: int, **facts: Any) -> Vocabulary:
    return choose(SAID, size, 12, **{"ends": (), "others": (), **facts})


def test_tokens_are_chosen_by_how_often_they_were_said_and_how_likely_they_were() -> None:
    assert [ids(chosen(size)) for size in (1, 2, 3, 4)] == [[5], [5, 9], [3, 5, 9], [2, 3, 5, 9]]


def test_of_tokens_that_are_never_said_the_lower_ids_come_first() -> None:
    assert ids(chosen(6)) == [0, 1, 2, 3, 5, 9]


def test_prompts_do_not_count() -> None:
    assert 1 not in ids(chosen(4))


def test_what_it_covers_is_counted_place_by_place() -> None:
    found = chosen(2)
    assert found.said == pytest.approx(1.0)
    assert found.mass == pytest.approx((0.5 + 0.5 + 0.5) / 3, abs=1e-3)
    assert chosen(1).said == pytest.approx(2 / 3)


def test_end_tokens_are_always_among_them_and_others_have_half_of_the_places_at_most() -> None:
    assert ids(chosen(1, ends=(11,))) == [11]
    assert ids(chosen(4, ends=(11,), others=(6, 7, 8))) == [5, 6, 9, 11]
    assert ids(chosen(4, others=(3, 7, 8))) == [3, 5, 7, 9]


@pytest.mark.parametrize("size", [0, 12, 100])
def test_no_size_or_one_beyond_the_vocabulary_is_all_of_it(size: int) -> None:
    found = chosen(size)
    assert ids(found) == list(range(12))
    assert found.said == 1.0


def test_a_target_s_answers_are_covered_by_what_is_counted_directly() -> None:
    samples = write(llama(), 40)
    found = choose(samples, 20, VOCABULARY, ends=(), others=())
    kept = set(ids(found))
    said = [token in kept for each in samples for token in each.answer.tolist()]
    masses = [
        sum(float(p) for token, p in zip(row.tolist(), log_p.float().exp(), strict=True) if token in kept)
        for each in samples
        for row, log_p in zip(each.top_ids, each.top_log_probs, strict=True)
    ]
    assert found.said == pytest.approx(sum(said) / len(said))
    assert found.mass == pytest.approx(sum(masses) / len(masses), rel=1e-4)
    assert list(kept) and ids(found) == sorted(kept)


def test_special_tokens_and_single_bytes_are_wanted_however_rare() -> None:
    assert unusual(byte_tokenizer()) == set(range(257))
    assert unusual(byte_fallback_tokenizer()) >= {*range(256), SPECIAL}
