"""Text that comes in pieces is the text of the whole, and no piece ends inside a character."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.tokenization import IncrementalDecoder, Tokenizer
from tests.models.checks import EMBEDDED_CHARACTERS
from tests.models.small_tokenizers import SPECIAL, WORD, byte_fallback_tokenizer
from tests.support.tokens import byte_tokenizer, ids

BYTES = byte_tokenizer()
FALLBACK = byte_fallback_tokenizer()
SIZE = 49_152
LOST = "\ufffd"

# Beginnings, middles and impossible bytes of UTF-8 come up far more often than among all 256.
_TORN = st.sampled_from([0x41, 0x80, 0xAC, 0xC3, 0xA9, 0xE2, 0x82, 0xF0, 0x9F, 0x98, 0xED, 0xC0, 0xFF])
_CHARACTERS = st.sampled_from(["a", "é", "€", "😀", LOST, "\x00"]).map(lambda text: list(text.encode()))
GARBAGE = st.lists(st.one_of(_CHARACTERS, st.lists(_TORN, max_size=12)), max_size=8).map(lambda runs: sum(runs, []))


def pieces(tokenizer: Tokenizer, tokens: Sequence[int], sizes: Sequence[int] = ()) -> list[str]:
    """What pushes of `sizes` tokens, then of one at a time, give out, and the flush."""
    decoder, found, at = IncrementalDecoder(tokenizer), [], 0
    for size in [*sizes, *[1] * len(tokens)]:
        found.append(decoder.push(tokens[at : at + size]))
        at += size
    return [*found, decoder.flush()]


@settings(max_examples=500, deadline=None)
@given(garbage=GARBAGE, sizes=st.lists(st.integers(0, 20), max_size=4))
def test_pieces_of_any_bytes_make_the_whole(garbage: list[int], sizes: list[int]) -> None:
    tokens = [byte + 1 for byte in garbage]
    assert "".join(pieces(BYTES, tokens, sizes)) == bytes(garbage).decode(errors="replace") == BYTES.decode(tokens)


@settings(max_examples=300, deadline=None)
@given(tokens=st.lists(st.integers(0, SIZE - 1) | st.integers(0, 300), max_size=40))
def test_pieces_of_any_tokens_of_the_embedded_model_make_the_whole(
    tokens: list[int], embedded_tokenizer: Tokenizer
) -> None:
    assert "".join(pieces(embedded_tokenizer, tokens)) == embedded_tokenizer.decode(tokens)


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.sampled_from("a é€😀漢\u0301👩‍👧\n") | EMBEDDED_CHARACTERS, max_size=40))
def test_a_text_streams_without_replacement_characters(text: str, embedded_tokenizer: Tokenizer) -> None:
    for tokenizer, tokens in ((BYTES, ids(text)), (embedded_tokenizer, embedded_tokenizer.encode(text))):
        found = pieces(tokenizer, tokens)
        assert all(text.startswith(soFar) for soFar in accumulate(found))
        assert not any(LOST in piece for piece in found) and found[-1] == ""
        assert "".join(found) == tokenizer.decode(tokens)


def test_a_character_is_given_out_with_its_last_byte_and_not_before() -> None:
    decoder = IncrementalDecoder(BYTES)
    assert [decoder.push([token]) for token in ids("a€b😀")] == ["a", "", "", "€", "b", "", "", "", "😀"]
    assert decoder.flush() == ""


@pytest.mark.parametrize("torn", [b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98"])
def test_a_character_that_never_ends_is_shown_once_at_the_end(torn: bytes) -> None:
    found = pieces(BYTES, [*ids("ab"), *(byte + 1 for byte in torn)])
    assert found == ["a", "b", *[""] * len(torn), LOST]


def test_a_flush_gives_out_once() -> None:
    decoder = IncrementalDecoder(BYTES)
    assert decoder.flush() == ""
    decoder.push(ids("é")[:1])
    assert [decoder.flush(), decoder.flush()] == [LOST, ""]


def test_a_run_of_bytes_that_are_no_text_is_not_held_back_for_ever() -> None:
    decoder = IncrementalDecoder(BYTES)
    shown = 0
    for count in range(1, 200):
        shown += len(decoder.push([0x80 + 1]))
        assert count - shown < 8


@settings(max_examples=300, deadline=None)
@given(
    parts=st.lists(
        st.sampled_from([*WORD.values(), SPECIAL, 9999]).map(lambda token: [token])
        | st.sampled_from(["é", "€", "😀", " ", "x"]).map(lambda text: list(text.encode())),
        max_size=20,
    )
)
def test_spaces_that_depend_on_what_comes_before_are_those_of_the_whole(parts: list[list[int]]) -> None:
    """Special tokens and ids that no token has may stand anywhere without eating the next word's space."""
    tokens: list[int] = sum(parts, [])
    assert "".join(pieces(FALLBACK, tokens)) == FALLBACK.decode(tokens)


@settings(max_examples=300, deadline=None)
@given(garbage=GARBAGE)
def test_text_after_bytes_that_are_no_text_is_not_lost(garbage: list[int]) -> None:
    """There the whole's own text changes with every byte that follows, so that pieces cannot make it."""
    text = "".join(pieces(FALLBACK, [*garbage, WORD["d"], WORD["▁bc"], WORD["▁a"]]))
    assert text.endswith("d bc a")


class Counting(Tokenizer):
    """Counts the tokens that are decoded."""

    decoded = 0

    def decode(self, ids: Sequence[int]) -> str:
        self.decoded += len(ids)
        return super().decode(ids)


@pytest.mark.parametrize("text", ["word " * 400, "€" * 700, "\udc80" * 2000, "\udcc3" * 2000, "\udce2\udc82" * 1000])
def test_a_token_costs_the_same_however_long_the_text_is(text: str) -> None:
    counting = Counting(BYTES._tokenizer, template=None, special={}, ends=())
    decoder, costs = IncrementalDecoder(counting), []
    for byte in text.encode(errors="surrogateescape"):
        before = counting.decoded
        decoder.push([byte + 1])
        costs.append(counting.decoded - before)
    assert max(costs) == max(costs[:100]) <= 100
