"""The first thing said on a stream: version of the contract, and whether two models can share a sequence."""

from __future__ import annotations

from typing import Literal

from tandem.rpc.errors import TandemError
from tandem.v1.model_pb2 import Handshake, ModelInfo

PROTOCOL_VERSION = 1


def make_handshake(expected: ModelInfo | None = None) -> Handshake:
    """expected: the model that the service is to be paired with; None where it is not known."""
    return Handshake(protocol_version=PROTOCOL_VERSION, expected=expected)


def check_handshake(handshake: Handshake, own: ModelInfo, *, side: Literal["draft", "target"]) -> None:
    """Refuses a caller that speaks another version or pairs this service with a model that does not fit.

    own: the model served here, as the `side` of the pair. Fields of `handshake.expected` that are left empty
    are not checked. Raises TandemError PROTOCOL_MISMATCH or TOKENIZER_MISMATCH.
    """
    if handshake.protocol_version != PROTOCOL_VERSION:
        raise TandemError.protocol_mismatch(handshake.protocol_version, PROTOCOL_VERSION)
    if side == "draft":
        check_pair(draft=own, target=handshake.expected)
    else:
        check_pair(draft=handshake.expected, target=own)


def check_pair(*, draft: ModelInfo, target: ModelInfo) -> None:
    """Raises TandemError TOKENIZER_MISMATCH unless both can work on one sequence.

    A side without a vocabulary of its own (prompt look-up: empty fingerprint, size 0) fits any other.
    """
    same_tokenizer = _agree(draft.tokenizer_fingerprint, target.tokenizer_fingerprint)
    if not (same_tokenizer and _agree(draft.vocabulary_size, target.vocabulary_size)):
        raise TandemError.tokenizer_mismatch(draft, target)


def _agree(one: str | int, other: str | int) -> bool:
    return not one or not other or one == other
