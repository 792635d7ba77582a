"""A text that is given in one vocabulary's tokens, kept in another's: what a draft with a tokenizer of its own reads.

The text is cut into short pieces at places where its words begin, and each piece is encoded by itself. Where those
places are depends on the tokens up to them alone, so what a text is in the other vocabulary depends on the text and not
on how it came about, and only the last piece has to be encoded again when the text grows. Byte-level tokenizers, which
split a text at the same places, give a piece the tokens that they give it within the text; others nearly always [ours].
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import tokenizers

from tandem.tokenization import Tokenizer
from tandem.vocabularies import token_bytes

#: Tokens of a piece, at most: where no word begins, as in a language without spaces, it ends all the same.
MOST_TOKENS = 32
_SPACES = b" \t\r\n\v\f"
# With bytes that are no text as lone surrogates: runs of text, and each such byte.
_RUNS = re.compile("[\udc80-\udcff]|[^\udc80-\udcff]+")


class Reader:
    """Reads texts in the tokens of `source`, in tokens of `own`. For any number of texts, on any thread."""

    def __init__(self, source: Tokenizer, own: Tokenizer) -> None:
        """Raises VocabularyError where it cannot be told what tokens stand for."""
        self._bytes = token_bytes(source)
        self._byte_ids = {data: number for number, data in enumerate(token_bytes(own)) if data and len(data) == 1}
        self._inner = _within_a_text(own)
        #: Special tokens that `own` puts before every text.
        self.opening = own.opening_ids

    def pieces(self, tokens: Sequence[int], start: int) -> Iterator[tuple[int, bytes]]:
        """Where each piece of the text begins, and its bytes. start: where one of them does."""
        begin, text, before = start, b"", b""
        for place in range(start, len(tokens)):
            data = self._bytes[tokens[place]] if tokens[place] < len(self._bytes) else None
            is_long = place - begin >= MOST_TOKENS
            # A special token stands for nothing that the other vocabulary could say, and is left out.
            if place > begin and (data is None or not before or is_long or _begins_word(before, data)):
                yield begin, text
                begin, text = place, b""
            before = data or b""
            text += before
        if begin < len(tokens):
            yield begin, text

    def encode(self, pieces: Sequence[bytes]) -> list[list[int]]:
        """Each piece as within a longer text. A byte that is no text is the token of that byte, where there is one."""
        runs = [_RUNS.findall(piece.decode("utf-8", "surrogateescape")) for piece in pieces]
        texts = [run for found in runs for run in found if not _is_byte(run)]
        encoded = iter(self._inner.encode_batch_fast(texts, add_special_tokens=False))
        return [
            [number for run in found for number in (self._byte(run) if _is_byte(run) else next(encoded).ids)]
            for found in runs
        ]

    def _byte(self, run: str) -> list[int]:
        number = self._byte_ids.get(bytes([ord(run) - 0xDC00]))
        return [] if number is None else [number]


class Transcript:
    """One text. ids: what it is in the other vocabulary."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._starts: list[tuple[int, int]] = []  # of its pieces: tokens and ids before each
        self.ids: list[int] = list(reader.opening)

    def become(self, tokens: Sequence[int], unchanged: int) -> int:
        """Takes on another text. unchanged: how many of its first tokens the old one has, as far as it goes. Returns
        how many of the first ids are what they were; at most the last piece of what is unchanged is encoded again."""
        starts = self._starts
        while starts and starts[-1][0] >= unchanged:
            starts.pop()
        begin, kept = starts.pop() if starts else (0, len(self._reader.opening))
        pieces = list(self._reader.pieces(tokens, begin))
        del self.ids[kept:]
        for (start, _), ids in zip(pieces, self._reader.encode([text for _, text in pieces]), strict=True):
            starts.append((start, len(self.ids)))
            self.ids += ids
        return kept


def _begins_word(before: bytes, token: bytes) -> bool:
    """Whether a word begins with a token that follows one: at the first space behind something else."""
    return token[:1] == b" " and before[-1:] not in _SPACES


def _is_byte(run: str) -> bool:
    return "\udc80" <= run[0] <= "\udcff"


def _within_a_text(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """It encodes what stands within a text: no space is put before it, and special tokens in it are text."""
    parts = json.loads(tokenizer.to_json())
    parts["normalizer"] = _without_prefix(parts["normalizer"], "normalizers")
    parts["pre_tokenizer"] = _without_prefix(parts["pre_tokenizer"], "pretokenizers")
    inner = tokenizers.Tokenizer.from_str(json.dumps(parts))
    inner.encode_special_tokens = True
    return inner


def _without_prefix(part: dict[str, Any] | None, members: str) -> dict[str, Any] | None:
    if part is None or part["type"] == "Prepend":
        return None
    if part["type"] == "Sequence":
        kept = [_without_prefix(each, members) for each in part[members]]
        return {**part, members: [each for each in kept if each is not None]}
    changes = {"add_prefix_space": False, "prepend_scheme": "never"}
    return {**part, **{name: value for name, value in changes.items() if name in part}}
