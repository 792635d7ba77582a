"""Which tokens of two vocabularies are the same, by the bytes that they stand for.

Token-level intersection (Timor et al., "Accelerating LLM Inference with Lossless Speculative Decoding Algorithms for
Heterogeneous Vocabularies", arXiv 2502.05202, Algorithm 4): a draft whose tokenizer is not the target's draws from its
distribution restricted to the tokens that both have, renormalised. Over the target's ids that is a law like any other,
so whatever rule is exact for a draft with the target's tokenizer is exact for this one. The paper compares tokens as
their vocabularies write them; that two families write the same bytes alike is chance, so bytes are compared [ours].
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tandem.tokenization import Tokenizer

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# Decoders that change nothing inside of a text: Strip takes from its two ends.
_HARMLESS = ("Fuse", "Strip")


class VocabularyError(ValueError):
    """What the tokens of a vocabulary stand for cannot be told."""


@dataclass(frozen=True, slots=True)
class Intersection:
    """target_ids, draft_ids: of the same length; those at one place are one token. target_ids rise, and no id of either
    occurs twice."""

    target_ids: tuple[int, ...]
    draft_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.target_ids)

    @property
    def fingerprint(self) -> str:
        """SHA-256 in lower-case hex over all pairs."""
        pairs = list(zip(self.target_ids, self.draft_ids, strict=True))
        return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def intersect(
    target: Tokenizer,
    draft: Tokenizer,
    *,
    target_size: int,
    draft_size: int,
    sayable: Collection[int] | None = None,
) -> Intersection:
    """The tokens that both have. target_size, draft_size: ids from there on are never drawn. sayable: ids that the
    draft can say; None for all.

    Of several tokens of the same bytes in one vocabulary the plain one is taken before a byte's own, and then the
    lower id. Special tokens stand for no bytes and are never compared by name; only where either side has exactly one
    end token are these two taken for one, since there both can mean nothing else [ours].
    Raises VocabularyError.
    """
    theirs, ours = _by_bytes(target, target_size, "target"), _by_bytes(draft, draft_size, "draft")
    pairs = {theirs[data]: ours[data] for data in theirs.keys() & ours.keys()}
    if len(target.end_token_ids) == len(draft.end_token_ids) == 1:
        [their_end], [our_end] = target.end_token_ids, draft.end_token_ids
        if their_end < target_size and our_end < draft_size:
            pairs = {one: other for one, other in pairs.items() if one != their_end and other != our_end}
            pairs[their_end] = our_end
    if sayable is not None:
        said = frozenset(sayable)
        pairs = {one: other for one, other in pairs.items() if other in said}
    return Intersection(tuple(sorted(pairs)), tuple(pairs[token] for token in sorted(pairs)))


def token_bytes(tokenizer: Tokenizer) -> list[bytes | None]:
    """What each id stands for within a text, by id; None for special and unknown tokens and for ids that no token has.

    Known are byte-level vocabularies, and such as mark spaces (`▁`), with or without a token for each byte.
    Raises VocabularyError for others.
    """
    parts = json.loads(tokenizer.to_json())
    read = _reader(parts["decoder"])
    found: list[bytes | None] = [None] * tokenizer.vocabulary_size
    for piece, number in tokenizer.pieces().items():
        found[number] = read(piece) or None
    # An added token is found in a text as it is written, whatever the alphabet of the others.
    if read is _byte_level:
        for token in parts["added_tokens"]:
            found[token["id"]] = token["content"].encode() or None
    for number in (*tokenizer.special_token_ids, *_unknown(parts["model"], tokenizer.pieces())):
        found[number] = None
    return found


def _by_bytes(tokenizer: Tokenizer, size: int, side: str) -> dict[bytes, int]:
    """Ids below `size`, by what they stand for. side: whose, for messages."""
    try:
        data_of = token_bytes(tokenizer)
    except VocabularyError as error:
        raise VocabularyError(f"the {side}'s tokens cannot be read as bytes: {error}") from error
    byte_pieces = {number for piece, number in tokenizer.pieces().items() if _BYTE_PIECE.fullmatch(piece)}
    known = [(number, data) for number, data in enumerate(data_of[:size]) if data is not None]
    found: dict[bytes, int] = {}
    for number, data in sorted(known, key=lambda entry: entry[0] in byte_pieces):
        found.setdefault(data, number)
    return found


def _reader(decoder: Mapping[str, Any] | None) -> Any:
    """What turns a token, as its vocabulary writes it, into bytes."""
    parts = _flat(decoder)
    kinds = [part["type"] for part in parts if part["type"] not in _HARMLESS]
    if kinds == ["ByteLevel"]:
        return _byte_level
    marks = {part["replacement"] for part in parts if part["type"] == "Metaspace"}
    for part in parts:
        if part["type"] == "Replace":
            if part["content"] != " " or "String" not in part["pattern"]:
                raise VocabularyError(f"the decoder replaces {part['pattern']} by {part['content']!r}")
            marks.add(part["pattern"]["String"])
    unknown = sorted(set(kinds) - {"Metaspace", "Replace", "ByteFallback"})
    if unknown or not marks:
        kind = ", ".join(unknown) or "none that is known"
        raise VocabularyError(f"the decoder is {kind}; it must be a byte-level one, or one of space marks")
    has_bytes = "ByteFallback" in kinds

    def read(piece: str) -> bytes:
        if has_bytes and (byte := _BYTE_PIECE.fullmatch(piece)):
            return bytes([int(byte[1], 16)])
        for mark in marks:
            piece = piece.replace(mark, " ")
        return piece.encode()

    return read


def _flat(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] != "Sequence":
        return [decoder]
    return [part for each in decoder["decoders"] for part in _flat(each)]


def _unknown(model: Mapping[str, Any], pieces: Mapping[str, int]) -> Iterable[int]:
    if model.get("unk_id") is not None:
        yield model["unk_id"]
    if model.get("unk_token") in pieces:
        yield pieces[model["unk_token"]]


def _alphabet() -> dict[str, int]:
    """Bytes by the characters that byte-level vocabularies write them with: printable ones stand for themselves, the
    others are counted upwards from 256 (GPT-2)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in printable]
    return {chr(value): value for value in printable} | {chr(256 + at): value for at, value in enumerate(others)}


_ALPHABET = _alphabet()


def _byte_level(piece: str) -> bytes:
    try:
        return bytes([_ALPHABET[character] for character in piece])
    except KeyError:
        return piece.encode()  # as the decoder does
