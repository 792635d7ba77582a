"""Tokens of two vocabularies are the same where they stand for the same bytes, and nowhere else."""

from __future__ import annotations

import itertools

import pytest
import tokenizers
import torch
from tokenizers import AddedToken, decoders, models

from tandem.tokenization import Tokenizer
from tandem.vocabularies import Intersection, VocabularyError, intersect, token_bytes
from tests.models.small_tokenizers import byte_fallback_tokenizer
from tests.support.families import SPECIAL, byte_level, space_marked

WORDS = ["the", " the", " then", "ing", " é"]


def shared(target: Tokenizer, draft: Tokenizer) -> Intersection:
    return intersect(
        target, draft, target_size=target.vocabulary_size, draft_size=draft.vocabulary_size
    )


def test_byte_level_tokens_stand_for_their_bytes() -> None:
    tokenizer = byte_level([" thé".encode()], seed=3)
    found = token_bytes(tokenizer)
    assert sorted(data for data in found if data is not None) == sorted(
        [*(bytes([byte]) for byte in range(256)), b" t", b" th", b" th\xc3", b" th\xc3\xa9"]
    )
    assert found[tokenizer.pieces()[SPECIAL]] is None
    for data in (b" ", b"\n", b"a", b"\x00", b"\xff", b"\xad"):
        number = found.index(data)
        assert data.decode(errors="replace") == tokenizer.decode([number])


def test_marks_are_spaces_and_byte_tokens_bytes() -> None:
    tokenizer = byte_fallback_tokenizer()
    found, pieces = token_bytes(tokenizer), tokenizer.pieces()
    told = {piece: found[number] for piece, number in pieces.items()}
    assert [told[f"<0x{byte:02X}>"] for byte in range(256)] == [bytes([byte]) for byte in range(256)]
    assert (told["▁"], told["▁a"], told["▁bc"], told["d"]) == (b" ", b" a", b" bc", b"d")
    assert (told["é"], told["▁€"], told["\ufffd"]) == ("é".encode(), " €".encode(), "\ufffd".encode())
    assert told["<s>"] is None


def test_families_share_what_is_written_differently() -> None:
    one, other = byte_level([word.encode() for word in WORDS], seed=1), space_marked(WORDS, seed=2)
    found = shared(one, other)
    theirs, ours = token_bytes(one), token_bytes(other)
    pairs = list(zip(found.target_ids, found.draft_ids, strict=True))
    assert all(theirs[target] == ours[draft] is not None for target, draft in pairs)
    assert {theirs[target] for target, _ in pairs} == set(theirs) & set(ours) - {None}
    assert {b" the", b" then", b"ing", b" \xc3\xa9", b"\xc3", b"A", b" "} <= {theirs[target] for target, _ in pairs}
    assert list(found.target_ids) == sorted(set(found.target_ids)) and len(set(found.draft_ids)) == len(found)
    assert any(target != draft for target, draft in pairs)


def test_a_plain_token_goes_before_a_byte_of_its_own() -> None:
    """`A` and `<0x41>` stand for one byte; texts are written with the first."""
    one, other = byte_level(seed=1), space_marked(seed=2)
    found = shared(one, other)
    partner = dict(zip(found.target_ids, found.draft_ids, strict=True))
    letter = token_bytes(one).index(b"A")
    assert partner[letter] == other.pieces()["A"] != other.pieces()["<0x41>"]
    assert partner[token_bytes(one).index(b" ")] == other.pieces()["▁"]
    assert partner[token_bytes(one).index(b"\xc3")] == other.pieces()["<0xC3>"]


def test_special_tokens_are_not_compared_by_name() -> None:
    one, other = byte_level(), byte_level(seed=5)
    assert one.pieces()[SPECIAL] not in shared(one, other).target_ids


def test_end_tokens_are_one_where_each_side_has_exactly_one() -> None:
    target, draft = byte_level(ends=[SPECIAL]), byte_level(seed=5, ends=[SPECIAL])
    found = shared(target, draft)
    pairs = dict(zip(found.target_ids, found.draft_ids, strict=True))
    assert pairs[target.pieces()[SPECIAL]] == draft.pieces()[SPECIAL]
    for one, other in ((byte_level(), draft), (target, byte_level(seed=5, ends=[SPECIAL, "a"]))):
        assert one.pieces()[SPECIAL] not in shared(one, other).target_ids


def test_what_is_never_drawn_is_not_shared() -> None:
    one, other = byte_level(seed=1), byte_level(seed=2)
    whole = shared(one, other)
    said = set(whole.draft_ids[::2])
    found = intersect(one, other, target_size=100, draft_size=120, sayable=said)
    assert 0 < len(found) < len(whole)
    assert set(zip(found.target_ids, found.draft_ids, strict=True)) == {
        (target, draft)
        for target, draft in zip(whole.target_ids, whole.draft_ids, strict=True)
        if target < 100 and draft < 120 and draft in said
    }


def test_added_tokens_are_the_text_that_they_are_found_in() -> None:
    one = byte_level()
    one._tokenizer.add_tokens([AddedToken("<tool>", special=False), AddedToken("é", special=False)])
    found, pieces = token_bytes(one), one.pieces()
    assert found[pieces["<tool>"]] == b"<tool>" and found[pieces["é"]] == "é".encode()


@pytest.mark.parametrize(
    "decoder",
    [None, decoders.WordPiece(), decoders.BPEDecoder(), decoders.Replace("▁", "_")],
    ids=["none", "WordPiece", "BPEDecoder", "another replacement"],
)
def test_a_vocabulary_that_cannot_be_read_is_refused(decoder: decoders.Decoder | None) -> None:
    inner = tokenizers.Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    if decoder is not None:
        inner.decoder = decoder
    with pytest.raises(VocabularyError, match="decoder"):
        token_bytes(Tokenizer(inner, template=None, special={}, ends=()))


def test_the_fingerprint_is_of_the_pairs() -> None:
    pairs = [Intersection((1, 2), (5, 6)), Intersection((1, 2), (6, 5)), Intersection((1, 3), (5, 6))]
    assert all(one.fingerprint != other.fingerprint for one, other in itertools.combinations(pairs, 2))
    assert pairs[0].fingerprint == Intersection((1, 2), (5, 6)).fingerprint


def test_the_example_of_the_papers_authors() -> None:
    """Their own test of token-level intersection in transformers (tests/generation/test_candidate_generator.py): a
    target with hello, world, foo, bar in a row of six, a draft with hello, world, foo and, at 4, baz; logits .1, .2,
    .3, .4 and -infinity of the draft are .1, .2, .3 of the target and nothing else. By hand besides: q over them is
    e^.1 / (e^.1 + e^.2 + e^.3) = .30061, then .33222 and .36717."""
    from draft_service.drafters.translation import Translation
    from tandem.sampling import History, SamplingChain, SamplingParams
    from tandem.transcripts import Reader

    def words(unknown: int, **ids: int) -> Tokenizer:
        inner = tokenizers.Tokenizer(models.WordLevel(vocab={"[UNK]": unknown, **ids}, unk_token="[UNK]"))
        inner.decoder = decoders.Metaspace()
        return Tokenizer(inner, template=None, special={}, ends=())

    target, draft = words(5, hello=0, world=1, foo=2, bar=3), words(3, hello=0, world=1, foo=2, baz=4)
    found = shared(target, draft)
    assert found == Intersection((0, 1, 2), (0, 1, 2))
    translation = Translation(found, Reader(target, draft), 6, torch.device("cpu"))
    logits = translation.logits(torch.tensor([[0.1, 0.2, 0.3, 0.4, -torch.inf]]))
    assert torch.equal(logits, torch.tensor([[0.1, 0.2, 0.3, -torch.inf, -torch.inf, -torch.inf]]))
    q = SamplingChain(SamplingParams(temperature=1.0), 6).log_probs(logits, History(())).exp()[0]
    assert torch.allclose(q, torch.tensor([0.30061, 0.33222, 0.36717, 0.0, 0.0, 0.0]), atol=1e-5)
