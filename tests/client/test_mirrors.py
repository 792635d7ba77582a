"""The dataclasses say all that the messages of the contract say."""

from __future__ import annotations

import dataclasses

import pytest
from google.protobuf.descriptor import Descriptor

import tandem.client  # noqa: F401  # registers all mirrors
from tandem.client.mirror import MIRRORS, mirrored
from tandem.v1 import completion_pb2

#: Answers that the client gives in another form: text alone, or put together from the stream.
OTHER_FORMS = {"DetokenizeResponse", "CompleteOnceResponse", "Choice"}


def reachable(message: Descriptor, found: dict[str, Descriptor]) -> dict[str, Descriptor]:
    if message.full_name not in found and not message.GetOptions().map_entry and message.name not in OTHER_FORMS:
        found[message.full_name] = message
        for field in message.fields:
            if field.message_type is not None:
                reachable(field.message_type, found)
    return found


ANSWERS: dict[str, Descriptor] = {}
for method in completion_pb2.DESCRIPTOR.services_by_name["CompletionService"].methods:
    reachable(method.output_type, ANSWERS)


def test_every_message_that_an_orchestrator_answers_with_has_its_dataclass() -> None:
    assert set(MIRRORS) == set(ANSWERS)


@pytest.mark.parametrize("name", ANSWERS)
def test_a_dataclass_has_the_fields_of_its_message_in_their_order(name: str) -> None:
    fields = [field.name for field in dataclasses.fields(MIRRORS[name])]
    assert fields == [field.name for field in ANSWERS[name].fields]


def test_values_keep_their_meaning() -> None:
    message = completion_pb2.CompleteResponse(text="a", token_ids=[1, 2], choice=3)
    account = message.tokens.add(source=completion_pb2.TOKEN_SOURCE_DRAFT_MATCHED, draft_entropy=0.0)
    message.round.thresholds["entropy"] = 0.5
    found = mirrored(message)
    assert (found.text, found.token_ids, found.choice, found.finish) == ("a", (1, 2), 3, None)
    assert (found.tokens[0].source, found.tokens[0].draft_entropy, found.tokens[0].distance) == (
        "draft_matched", 0.0, None,
    )  # fmt: skip
    assert found.round.thresholds == {"entropy": 0.5} and found.round.time is None
    account.source = 99  # type: ignore[assignment]
    assert mirrored(message).tokens[0].source == "99"  # of a newer contract
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.text = "b"
    assert dataclasses.asdict(found)["round"]["thresholds"] == {"entropy": 0.5}
