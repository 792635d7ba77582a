"""Tandem's own API as JSON is the gRPC API by protobuf's mapping: the same messages, the same refusals."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from tandem.rpc.errors import TandemError
from tandem.v1 import completion_pb2
from tests.gateway.serving import Gateway, gateway, pair
from tests.support.tokens import ids

#: Every field that a text may have at once.
REQUEST: dict[str, Any] = {
    "tokens": {"ids": ids("Hi")},
    "max_tokens": 12,
    "sampling": {
        "temperature": 0.8, "top_k": 40, "logit_bias": {"98": 1.5, "99": "-Infinity"}, "seed": "18446744073709551615",
    },
    "speculation": {"stop": {"fixed": {}, "max_tokens": 3}, "accept": {"adasd": {"min_samples": 1}}},
    "stop": ["\u0000never"],
    "stop_token_ids": [250],
    "audit": True,
    "request_id": "mine",
    "n": 2,
    "log_probabilities": 2,
    "return_prompt_token_ids": True,
    "priority": 1,
}  # fmt: skip


def responses(text: str) -> list[completion_pb2.CompleteResponse]:
    *events, last, empty = text.split("\n\n")
    assert (last, empty) == ("data: [DONE]", "")
    return [
        json_format.Parse(event.removeprefix("data: "), completion_pb2.CompleteResponse()) for event in events
    ]


def told(found: list[completion_pb2.CompleteResponse]) -> list[completion_pb2.CompleteResponse]:
    """By choice, as choices come side by side; without times."""
    for response in found:
        response.ClearField("round")
        if response.HasField("finish"):
            response.finish.speculation.ClearField("time")
    return sorted(found, key=lambda response: response.choice)


async def test_the_messages_are_those_of_grpc(served: Gateway) -> None:
    answer = await served.post("/tandem/v1/complete", REQUEST)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    request = json_format.ParseDict(REQUEST, completion_pb2.CompleteRequest())
    by_grpc = [response async for response in served.stub.Complete(request)]
    by_http = responses(answer.text)
    assert by_http[0].prompt_token_ids == ids("Hi")
    assert any(response.HasField("round") for response in by_http)
    assert told(by_http) == told(by_grpc)


async def test_names_are_the_fields_own_and_numbers_as_protobuf_has_them(served: Gateway) -> None:
    answer = await served.post("/tandem/v1/complete", REQUEST)
    *events, _, _ = answer.text.split("\n\n")
    found = [json.loads(event.removeprefix("data: ")) for event in events]
    finish = next(event["finish"] for event in found if "finish" in event)
    assert finish["reason"] == "FINISH_REASON_LENGTH" and finish["seed"] == "18446744073709551615"
    assert finish["usage"]["prompt_tokens"] == 2 and "drafted_tokens" in finish["speculation"]
    tokens = [token for event in found for token in event.get("log_probabilities", ())]
    assert all(isinstance(token["token"], str) for token in tokens)  # bytes, in base64
    assert json_format.ParseDict(tokens[0], completion_pb2.TokenLogProbability()).token


async def test_tokens_models_and_load(served: Gateway) -> None:
    answer = await served.post("/tandem/v1/tokenize", {"text": "Hé"})
    assert answer.json() == {"token_ids": ids("Hé"), "context_length": 512}
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    assert (await served.post("/tandem/v1/tokenize", {"chat": chat})).json()["token_ids"] == ids("user:Hi;")
    answer = await served.post("/tandem/v1/detokenize", {"token_ids": [0, *ids("Hé")]})
    assert answer.json() == {"text": "<end>Hé"}
    answer = await served.post("/tandem/v1/detokenize", {"token_ids": [0, *ids("Hé")], "skip_special_tokens": True})
    assert answer.json() == {"text": "Hé"}
    models = (await served.http.get("/tandem/v1/models")).json()
    assert (models["target"]["model_id"], models["draft"]["model_id"]) == ("tiny", "tiny-draft")
    load = (await served.http.get("/tandem/v1/load")).json()
    assert int(load["target"]["cache_capacity_bytes"]) > 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"text": "x", "sampling": {"top_p": 0}}, "sampling.top_p"),
        ({"text": "x", "sampling": {"top_p": "much"}}, "sampling.top_p"),
        ({"text": "x", "sampling": {"temperatur": 1}}, "sampling.temperatur"),
        ({"text": "x", "max_tokens": 2**31}, "max_tokens"),
        ({"tokens": {"ids": [1, 999]}}, "tokens.ids[1]"),
        ({"tokens": {"ids": [1, -1]}}, "tokens.ids"),
        ({"chat": {"messages": [{"role": "user", "content": "x"}, {"role": "me"}]}}, "chat.messages[1].role"),
        ({"chat": {"messages": [{"role": 1}]}}, "chat.messages[0].role"),
        ({"text": "x", "speculation": {"stop": {"fixed": {"length": 3}}}}, "speculation.stop.fixed.length"),
        ({"text": "x", "grammar": {"regex": "("}}, "grammar.regex"),
        ({"text": "x", "tokens": {"ids": [1]}}, None),
    ],
)
async def test_a_refusal_names_the_field_as_grpc_does(served: Gateway, body: dict[str, Any], param: str | None) -> None:
    error = await served.error("/tandem/v1/complete", body)
    assert (error["param"], error["code"]) == (param, "invalid_field")
    try:
        request = json_format.ParseDict(body, completion_pb2.CompleteRequest())
    except json_format.ParseError:
        return  # gRPC has no way to say it
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.grpc_request(request)
    assert TandemError.from_rpc_error(caught.value).field == f"completion.{param}"


async def test_an_error_after_the_first_byte_is_an_event() -> None:
    async with gateway(*pair()) as served:
        body = {"text": "Hi", "max_tokens": 500, "ignore_end_tokens": True, "speculation": {"off": True}}
        async with served.http.stream("POST", "/tandem/v1/complete", json=body) as answer:
            lines = answer.aiter_lines()
            assert answer.status_code == 200 and (await anext(lines)).startswith("data: ")
            await served.services.target._stop(None)
            rest = [line async for line in lines]
    at = rest.index("event: error")
    error = json.loads(rest[at + 1].removeprefix("data: "))["error"]
    assert error["code"] == "target_unavailable" and error["type"] == "server_error"
    assert "data: [DONE]" not in rest
