"""HTTP and gRPC only translate: identical requests have identical texts, streamed or in one piece."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format

from tandem.policies import policy_from_names
from tandem.v1 import completion_pb2, policy_pb2
from tests.gateway.serving import Gateway
from tests.support.tokens import END, ids

COUPLED = policy_from_names("fixed", "coupled", max_tokens=3)
EXACT = policy_from_names("fixed", "exact", max_tokens=3)
RATIO = policy_from_names("fixed", "ratio", max_tokens=3)
OFF = policy_pb2.SpeculationPolicy(off=True)

#: Tokens that come again and again, so that penalties show.
LIKED, AS_LIKED = {str(token): 14 for token in range(98, 106)}, {token: 14.0 for token in range(98, 106)}
#: What a client of OpenAI's API says, the parameter in question first, and what says the same by gRPC.
SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "temperature": ({"temperature": 0.5}, {"sampling": {"temperature": 0.5}}),
    "greedy": ({"temperature": 0}, {"sampling": {"temperature": 0.0}}),
    "top_p": ({"top_p": 0.5}, {"sampling": {"top_p": 0.5}}),
    "top_k": ({"top_k": 2}, {"sampling": {"top_k": 2}}),
    "top_k of all": ({"top_k": -1}, {}),
    "min_p": ({"min_p": 0.5}, {"sampling": {"min_p": 0.5}}),
    "likes": ({"logit_bias": LIKED}, {"sampling": {"logit_bias": AS_LIKED}}),
    "presence_penalty": (
        {"presence_penalty": 2, "temperature": 4, "logit_bias": LIKED},
        {"sampling": {"presence_penalty": 2.0, "temperature": 4.0, "logit_bias": AS_LIKED}},
    ),
    "frequency_penalty": (
        {"frequency_penalty": 2, "temperature": 4, "logit_bias": LIKED},
        {"sampling": {"frequency_penalty": 2.0, "temperature": 4.0, "logit_bias": AS_LIKED}},
    ),
    "repetition_penalty": (
        {"repetition_penalty": 1.5, "temperature": 4, "logit_bias": LIKED},
        {"sampling": {"repetition_penalty": 1.5, "temperature": 4.0, "logit_bias": AS_LIKED}},
    ),
    "logit_bias": ({"logit_bias": {"98": 9, "99": -100}}, {"sampling": {"logit_bias": {98: 9.0, 99: -100.0}}}),
    "seed": ({"seed": 12}, {"sampling": {"seed": 12}}),
    "negative seed": ({"seed": -1}, {"sampling": {"seed": 2**64 - 1}}),
    "large seed": ({"seed": 2**63 + 5}, {"sampling": {"seed": 2**63 + 5}}),
    "max_tokens": ({"max_tokens": 5}, {"max_tokens": 5}),
    "stop_token_ids": ({"stop_token_ids": [7, 45]}, {"stop_token_ids": [7, 45]}),
    "ignore_eos": (
        {"ignore_eos": True, "logit_bias": {"0": 14}},
        {"ignore_end_tokens": True, "sampling": {"logit_bias": {END: 14.0}}},
    ),
    "min_tokens": (
        {"min_tokens": 5, "logit_bias": {"0": 14}},
        {"min_tokens": 5, "sampling": {"logit_bias": {END: 14.0}}},
    ),
    "stop": ({"stop": "a", "logit_bias": {"98": 14}}, {"stop": ["a"], "sampling": {"logit_bias": {98: 14.0}}}),
    "stops": (
        {"stop": ["b", "a"], "logit_bias": {"98": 14}},
        {"stop": ["b", "a"], "sampling": {"logit_bias": {98: 14.0}}},
    ),
    "stop shown": (
        {"include_stop_str_in_output": True, "stop": "a", "logit_bias": {"98": 14}},
        {"stop": ["a"], "include_stop": True, "sampling": {"logit_bias": {98: 14.0}}},
    ),
    "json object": ({"response_format": {"type": "json_object"}}, {"grammar": {"json_object": {}}}),
    "choice": ({"guided_choice": ["yes", "no"]}, {"grammar": {"choices": {"texts": ["yes", "no"]}}}),
    "regex": ({"guided_regex": "[ab]{9}"}, {"grammar": {"regex": "[ab]{9}"}}),
    "grammar": ({"guided_grammar": 'start: "x"+ "y"'}, {"grammar": {"lark": 'start: "x"+ "y"'}}),
    "off": ({"speculation": "off"}, {"speculation": OFF}),
    "ratio": ({"speculation": json_format.MessageToDict(RATIO)}, {"speculation": RATIO}),
    "exact": ({"speculation": json_format.MessageToDict(EXACT)}, {"speculation": EXACT}),
}


def grpc_fields(said: dict[str, Any]) -> dict[str, Any]:
    """With what HTTP assumes."""
    sampling = {"temperature": 1.0, "seed": 11, **said.get("sampling", {})}
    return {"max_tokens": 20, "speculation": COUPLED, **said, "sampling": sampling}


def http_body(said: dict[str, Any]) -> dict[str, Any]:
    """Without a policy it has another stop rule than gRPC's: of coupled texts no rule and no length of blocks shows."""
    return {"max_tokens": 20, "seed": 11, "return_token_ids": True, **said}


async def streamed(served: Gateway, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await served.post(path, {"model": "tiny", "stream": True, **body})
    assert answer.status_code == 200, answer.text
    *events, last, empty = answer.text.split("\n\n")
    assert (last, empty) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


@pytest.mark.parametrize("name", SAME)
async def test_a_prompt_has_one_text_on_all_faces(served: Gateway, name: str) -> None:
    http, by_grpc = SAME[name]
    expected = await served.grpc(text="Hi", **grpc_fields(by_grpc))
    (choice,) = (await served.text("Hi", **http_body(http)))["choices"]
    (of_tokens,) = (await served.text(ids("Hi"), **http_body(http)))["choices"]
    assert choice["text"] == of_tokens["text"] == expected.text
    assert choice["token_ids"] == of_tokens["token_ids"] == list(expected.token_ids)
    reason = "stop" if expected.finish.reason == completion_pb2.FINISH_REASON_STOP else "length"
    assert choice["finish_reason"] == reason and (choice["stop_reason"] or "") == expected.finish.stop
    events = await streamed(served, "/v1/completions", {"prompt": "Hi", **http_body(http)})
    pieces = [event["choices"][0] for event in events]
    assert "".join(piece["text"] for piece in pieces) == expected.text
    assert [token for piece in pieces for token in piece["token_ids"]] == list(expected.token_ids)
    assert [piece["finish_reason"] for piece in pieces] == [None] * (len(pieces) - 1) + [reason]


async def test_each_of_them_shows_in_the_text(served: Gateway) -> None:
    for name, (http, _) in SAME.items():
        if name in ("plain", "top_k of all", "off"):  # say nothing, or what keeps the text
            continue
        texts = []
        for said in (http, dict(list(http.items())[1:])):
            (choice,) = (await served.text("Hi", **http_body(said)))["choices"]
            texts.append((choice["text"], choice["token_ids"]))
        assert texts[0] != texts[1], name


@pytest.mark.parametrize("name", SAME)
async def test_a_conversation_has_one_text_on_all_faces(served: Gateway, name: str) -> None:
    http, by_grpc = SAME[name]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    fields = grpc_fields({**by_grpc, "chat": {"messages": messages}})
    expected = await served.grpc(**fields)
    (choice,) = (await served.chat(messages=messages, **http_body(http)))["choices"]
    assert choice["message"] == {"role": "assistant", "content": expected.text, "refusal": None}
    assert choice["token_ids"] == list(expected.token_ids)
    events = await streamed(served, "/v1/chat/completions", {"messages": messages, **http_body(http)})
    pieces = [event["choices"][0] for event in events]
    assert pieces[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(piece["delta"].get("content", "") for piece in pieces) == expected.text
    assert pieces[-1]["delta"] == {} and pieces[-1]["finish_reason"] == choice["finish_reason"]
    request = json_format.MessageToDict(completion_pb2.CompleteRequest(**fields), preserving_proto_field_name=True)
    answer = await served.post("/tandem/v1/complete", request)
    *events, _, _ = answer.text.split("\n\n")
    assert "".join(json.loads(event.removeprefix("data: ")).get("text", "") for event in events) == expected.text


async def test_a_seed_has_one_text_whatever_the_policy_that_keeps_texts(served: Gateway) -> None:
    """Who says a seed and nothing of speculation gets the coupled rule."""
    texts = set()
    for more in ({}, {"speculation": "off"}, {"speculation": "reproducible"}):
        texts.add((await served.text("Hi", seed=5, max_tokens=60, **more))["choices"][0]["text"])
    for model in ("tiny:off", "tiny:reproducible"):
        texts.add((await served.text("Hi", seed=5, max_tokens=60, model=model))["choices"][0]["text"])
    assert len(texts) == 1
    rules = (await served.text("Hi", seed=5, max_tokens=60))["metrics"]["speculation"]
    assert (rules["accept_rule"], rules["lossy"]) == ("coupled", False)


async def test_the_seed_that_is_told_gives_the_text_again(served: Gateway) -> None:
    (first,) = (await served.text("Hi", max_tokens=40, speculation="reproducible"))["choices"]
    (again,) = (await served.text("Hi", max_tokens=40, seed=first["seed"]))["choices"]
    assert again["text"] == first["text"] and again["seed"] == first["seed"] < 2**53
    (other,) = (await served.text("Hi", max_tokens=40, speculation="reproducible"))["choices"]
    assert other["seed"] != first["seed"]
