"""A text in another vocabulary's tokens is the same text, is the same however it came about, and costs what changed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.tokenization import Tokenizer
from tandem.transcripts import MOST_TOKENS, Reader, Transcript
from tandem.vocabularies import token_bytes
from tests.models.small_tokenizers import byte_fallback_tokenizer
from tests.support.families import SPECIAL, byte_level, space_marked
from tests.support.prompts import spec_bench_prompts

WORDS = ["the", " the", " then", "walk", " walk", "ing", "\n\n", "  "]
COARSE = byte_level([word.encode() for word in [*WORDS, " walking", "walking"]], seed=1)
FINE = byte_level([b" t"], seed=2)
MARKED = space_marked(WORDS, seed=3)
PAIRS = [(COARSE, FINE), (FINE, COARSE), (COARSE, MARKED), (MARKED, COARSE), (FINE, byte_fallback_tokenizer())]
#: Any tokens: texts of words, and what is no text at all.
TOKENS = st.lists(st.integers(0, 10_000), max_size=90)


def some_tokens(tokenizer: Tokenizer, numbers: list[int]) -> list[int]:
    return [number % tokenizer.vocabulary_size for number in numbers]


def told(tokenizer: Tokenizer, ids: list[int]) -> bytes:
    return b"".join(token_bytes(tokenizer)[number] or b"" for number in ids)


def transcribed(reader: Reader, tokens: list[int]) -> list[int]:
    transcript = Transcript(reader)
    transcript.become(tokens, 0)
    return transcript.ids


@pytest.mark.parametrize("pair", PAIRS, ids=["to finer", "to coarser", "to marked", "from marked", "to byte fallback"])
@settings(max_examples=60, deadline=None)
@given(numbers=TOKENS)
def test_it_is_the_same_text(pair: tuple[Tokenizer, Tokenizer], numbers: list[int]) -> None:
    source, own = pair
    tokens = some_tokens(source, numbers)
    assert told(own, transcribed(Reader(source, own), tokens)) == told(source, tokens)


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(st.tuples(st.integers(0, 100), TOKENS), max_size=6))
def test_it_is_the_same_however_it_came_about(texts: list[tuple[int, list[int]]]) -> None:
    """Cut back and grown at any places."""
    reader, tokens = Reader(FINE, COARSE), list[int]()
    transcript = Transcript(reader)
    for cut, numbers in texts:
        unchanged = min(cut, len(tokens))
        before = list(transcript.ids)
        tokens = tokens[:unchanged] + some_tokens(FINE, numbers)
        kept = transcript.become(tokens, unchanged)
        assert transcript.ids == transcribed(reader, tokens)
        assert transcript.ids[:kept] == before[:kept]


def test_a_word_is_read_as_a_whole_once_it_is_there() -> None:
    reader = Reader(FINE, COARSE)
    pieces = {data: number for number, data in enumerate(token_bytes(COARSE))}
    transcript = Transcript(reader)
    text = FINE.encode("then walk")
    transcript.become(text, 0)
    assert transcript.ids == [pieces[b"the"], pieces[b"n"], pieces[b" walk"]]
    kept = transcript.become([*text, *FINE.encode("ing")], len(text))
    assert kept == 2 and transcript.ids == [pieces[b"the"], pieces[b"n"], pieces[b" walking"]]


def test_only_the_last_piece_is_read_again() -> None:
    """At most so many tokens before what has changed, whatever stands there."""
    reader = Reader(FINE, COARSE)
    for text in (FINE.encode("walking " * 300), FINE.encode("a" * 1000), FINE.encode("\U0001f600" * 300)):
        transcript = Transcript(reader)
        transcript.become(text, 0)
        before = transcript.ids[:]
        kept = transcript.become([*text, *FINE.encode("b")], len(text))
        assert len(told(COARSE, before[kept:])) <= MOST_TOKENS


def test_special_tokens_are_left_out_and_part_texts() -> None:
    """`walk<end>ing` is not read as `walking`."""
    reader = Reader(FINE, COARSE)
    pieces = {data: number for number, data in enumerate(token_bytes(COARSE))}
    end = FINE.pieces()[SPECIAL]
    tokens = [end, *FINE.encode("walk"), end, end, *FINE.encode("ing"), end]
    assert transcribed(reader, tokens) == [pieces[b"walk"], pieces[b"ing"]]
    assert transcribed(reader, [end]) == []


def test_special_tokens_in_a_text_are_text() -> None:
    tokens = [FINE.pieces()[character] for character in SPECIAL]
    assert told(COARSE, transcribed(Reader(FINE, COARSE), tokens)) == SPECIAL.encode()


def test_a_text_begins_as_its_own_tokenizer_begins_one() -> None:
    own = space_marked(WORDS, seed=3, begins=True)
    assert own.opening_ids == (own.pieces()["<begin>"],) and MARKED.opening_ids == ()
    reader = Reader(COARSE, own)
    transcript = Transcript(reader)
    assert transcript.ids == list(own.opening_ids)
    for text in (COARSE.encode("the walk"), COARSE.encode("walk")):
        transcript.become(text, 0)
        assert transcript.ids[0] == own.opening_ids[0]
        assert told(own, transcript.ids[1:]) == told(COARSE, text)


def test_real_texts_are_read_as_their_own_tokenizer_reads_them(embedded_tokenizer: Tokenizer) -> None:
    """Cut into pieces and put together: the embedded model's tokens of a text are found again from their bytes."""
    own, finer = Reader(embedded_tokenizer, embedded_tokenizer), Reader(FINE, embedded_tokenizer)
    for text in spec_bench_prompts().values():
        tokens = embedded_tokenizer.encode(text)
        assert transcribed(own, tokens) == tokens
        assert transcribed(finer, FINE.encode(text)) == tokens
