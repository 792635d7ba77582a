"""The first thing said on a stream: version of the contract, and whether two models can share a sequence."""

from __future__ import annotations

from typing import Literal

from tandem.rpc.errors import TandemError
from tandem.v1.model_pb2 import Features, Handshake, ModelInfo

PROTOCOL_VERSION = 1


def make_handshake(expected: ModelInfo | None = None) -> Handshake:
    """expected: the model that the service is to be paired with; None where it is not known."""
    return Handshake(protocol_version=PROTOCOL_VERSION, expected=expected)


def check_handshake(handshake: Handshake, own: ModelInfo, *, side: Literal["draft", "target"]) -> None:
    """Refuses a caller that speaks another version or pairs this service with a model that does not fit.

    own: the model served here, as the `side` of the pair. Fields of `handshake.expected` that are left empty
    are not checked. Raises TandemError PROTOCOL_MISMATCH, TOKENIZER_MISMATCH or NOT_SUPPORTED.
    """
    if handshake.protocol_version != PROTOCOL_VERSION:
        raise TandemError.protocol_mismatch(handshake.protocol_version, PROTOCOL_VERSION)
    if side == "draft":
        check_pair(draft=own, target=handshake.expected)
    else:
        check_pair(draft=handshake.expected, target=own)


def check_pair(*, draft: ModelInfo, target: ModelInfo) -> None:
    """Raises TandemError TOKENIZER_MISMATCH unless both can work on one sequence, and NOT_SUPPORTED for a draft that is
    fed with other features than the target's.

    A side without a vocabulary of its own (prompt look-up: empty fingerprint, size 0) fits any other.
    """
    same_tokenizer = _agree(draft.tokenizer_fingerprint, target.tokenizer_fingerprint)
    if not (same_tokenizer and _agree(draft.vocabulary_size, target.vocabulary_size)):
        raise TandemError.tokenizer_mismatch(draft, target)
    # Of a target that has not been asked yet nothing is known but its tokenizer.
    if draft.HasField("fed_with") and target.dtype and (problem := _misfed(draft.fed_with.features, target)):
        raise TandemError.not_supported("features", f"draft {draft.model_id} does not fit: {problem}")


def _misfed(needed: Features, target: ModelInfo) -> str:
    """What a target's features are not; empty where they are the ones that are needed."""
    fed = f"it is fed with features of {needed.width} numbers of a {needed.family}"
    if not target.HasField("features"):
        return f"{fed}, and target {target.model_id} gives none"
    found = target.features
    if (found.width, found.family) != (needed.width, needed.family):
        return f"{fed}, and those of target {target.model_id} are of {found.width} of a {found.family}"
    return ""


def _agree(one: str | int, other: str | int) -> bool:
    return not one or not other or one == other
