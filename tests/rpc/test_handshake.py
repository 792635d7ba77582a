from __future__ import annotations

import pytest

from tandem.rpc.errors import TandemError
from tandem.rpc.handshake import PROTOCOL_VERSION, check_handshake, check_pair, make_handshake
from tandem.v1.model_pb2 import Handshake, ModelInfo

DRAFT = ModelInfo(model_id="small", tokenizer_fingerprint="aa", vocabulary_size=100)
TARGET = ModelInfo(model_id="large", tokenizer_fingerprint="aa", vocabulary_size=100)
LOOKUP = ModelInfo(model_id="prompt-lookup")


@pytest.mark.parametrize("version", [0, PROTOCOL_VERSION + 1])
def test_another_version_is_refused(version: int) -> None:
    with pytest.raises(TandemError) as caught:
        check_handshake(Handshake(protocol_version=version), TARGET, side="target")
    assert caught.value.reason == "PROTOCOL_MISMATCH"
    assert caught.value.metadata == {"caller_version": str(version), "service_version": str(PROTOCOL_VERSION)}


@pytest.mark.parametrize(
    "expected", [None, TARGET, ModelInfo(model_id="large"), ModelInfo(vocabulary_size=100)]
)
def test_fields_that_are_left_empty_are_not_checked(expected: ModelInfo | None) -> None:
    handshake = make_handshake(expected)
    check_handshake(handshake, DRAFT, side="draft")
    assert handshake.protocol_version == PROTOCOL_VERSION


@pytest.mark.parametrize("other", [ModelInfo(tokenizer_fingerprint="bb"), ModelInfo(vocabulary_size=101)])
@pytest.mark.parametrize("side", ["draft", "target"])
def test_a_pair_that_does_not_match_is_refused_with_each_on_its_side(other: ModelInfo, side: str) -> None:
    other = ModelInfo(model_id="other", **{field.name: value for field, value in other.ListFields()})
    with pytest.raises(TandemError) as caught:
        check_handshake(make_handshake(other), DRAFT, side=side)
    assert caught.value.reason == "TOKENIZER_MISMATCH"
    assert caught.value.metadata[f"{side}_model_id"] == "small"
    assert "other" in caught.value.message


def test_a_drafter_without_a_vocabulary_fits_any_target() -> None:
    check_pair(draft=LOOKUP, target=TARGET)
    check_handshake(make_handshake(TARGET), LOOKUP, side="draft")


def with_features(model: ModelInfo, width: int, family: str = "llama", dtype: str = "float32") -> ModelInfo:
    found = ModelInfo(features={"width": width, "family": family}, dtype=dtype)
    found.MergeFrom(model)
    return found


def test_a_draft_that_is_fed_fits_a_target_of_the_same_features() -> None:
    head = ModelInfo(fed_with={"features": {"width": 64, "family": "llama"}, "positions": 32})
    head.MergeFrom(DRAFT)
    check_pair(draft=head, target=with_features(TARGET, 64))
    check_handshake(make_handshake(with_features(TARGET, 64)), head, side="draft")
    check_pair(draft=head, target=TARGET)  # nothing but its tokenizer is known
    check_pair(draft=DRAFT, target=with_features(TARGET, 64))
    for target, told in (
        (with_features(TARGET, 96), "those of target large are of 96 of a llama"),
        (with_features(TARGET, 64, "gemma"), "those of target large are of 64 of a gemma"),
        (ModelInfo(model_id="large", dtype="float32"), "target large gives none"),
    ):
        with pytest.raises(TandemError) as caught:
            check_handshake(make_handshake(target), head, side="draft")
        assert (caught.value.reason, caught.value.field) == ("NOT_SUPPORTED", "features")
        assert "draft small does not fit: it is fed with features of 64 numbers of a llama" in caught.value.message
        assert told in caught.value.message
