"""Requests as nobody would send them, random ones and good ones with a flaw: never a 500, never a hang."""

from __future__ import annotations

import copy
import json
import os
import random
import resource
from typing import Any

import pytest

from tests.gateway.serving import Gateway
from tests.gateway.test_native import REQUEST
from tests.support.tokens import ids

#: Requests to each path; the variable says how many to all five together.
COUNT = int(os.environ.get("TANDEM_FUZZ_EXAMPLES", "500")) // 5
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SHARED: dict[str, Any] = {
    "model": "tiny", "temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "presence_penalty": 1,
    "frequency_penalty": 1, "repetition_penalty": 1.1, "logit_bias": {"7": 5}, "seed": 3, "max_tokens": 3,
    "min_tokens": 1, "n": 2, "stop": ["x", "y"], "stop_token_ids": [3], "ignore_eos": True, "priority": 1,
    "include_stop_str_in_output": True, "stream": True, "stream_options": {"include_usage": True},
    "return_token_ids": True, "request_id": "r", "user": "u", "metadata": {"a": "b"}, "store": False,
    "speculation": {"stop": {"fixed": {}, "max_tokens": 3}, "accept": {"jsd": {"threshold": 0.5}}},
}  # fmt: skip
GOOD: dict[str, dict[str, Any]] = {
    "/v1/completions": {**SHARED, "prompt": ["Hi", "Ho"], "logprobs": 2},
    "/v1/chat/completions": {
        **SHARED,
        "messages": [
            {"role": "system", "content": "x"}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "x", "tool_call_id": "c"},
        ],
        "logprobs": True, "top_logprobs": 2, "chat_template_kwargs": {"mood": "x"},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    },
    "/tandem/v1/complete": {**REQUEST, "max_tokens": 3},
    "/tandem/v1/tokenize": {"chat": {"messages": [{"role": "user", "content": "x"}]}},
    "/tandem/v1/detokenize": {"token_ids": ids("Hi"), "skip_special_tokens": True},
}  # fmt: skip
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 0.5, 2**31, 2**32, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308, -1e-320, "", "x",
    "\0", "é" * 50, "off", "NaN", "-Infinity", "1e999", "99999999999999999999", [], {}, [[]], [{}], {"": ""},
    {"a": {"b": [None]}}, [0], ["x", 1], {"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "x"}},
    {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}, {"regex": "(a+)+$"},
    {"grammar": "start: start"}, {"json": "{"}, {"choice": ["a"] * 2000}, {"off": True, "stop": {}}, "a" * 5000,
]  # fmt: skip


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [way]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        found += places(part, (*way, key))
    return found


def mutated(drawn: random.Random, good: dict[str, Any]) -> Any:
    body = copy.deepcopy(good)
    for _ in range(drawn.choice((1, 1, 1, 2, 3))):
        way = drawn.choice(places(body)[1:] or [("x",)])
        holder = body
        for step in way[:-1]:
            holder = holder[step]
        match drawn.randrange(4):
            case 0:
                del holder[way[-1]]
            case 1 if isinstance(holder, dict):
                holder[drawn.choice([*GOOD["/v1/completions"], "x", "json_schema", "grammar", "echo", "suffix"])] = (
                    copy.deepcopy(drawn.choice(ODD))
                )
            case _:
                holder[way[-1]] = copy.deepcopy(drawn.choice(ODD))
        if not body:
            break
    return body


@pytest.mark.parametrize("path", GOOD)
async def test_nothing_that_is_sent_is_an_error_of_the_service(served: Gateway, path: str) -> None:
    drawn = random.Random(path)
    outcomes: dict[int, int] = {}
    assert (await served.post(path, GOOD[path])).status_code == 200
    for number in range(COUNT):
        body = mutated(drawn, GOOD[path])
        content = json.dumps(body, allow_nan=True).encode()
        if number % 5 == 0 and content:  # and now and then not even JSON
            at = drawn.randrange(len(content))
            content = content[:at] + bytes([drawn.randrange(256)]) + content[at + 1 :]
        answer = await served.http.post(path, content=content, headers={"content-type": "application/json"})
        outcomes[answer.status_code] = outcomes.get(answer.status_code, 0) + 1
        assert answer.status_code in (200, 400, 404), (body, answer.text)
        if answer.status_code != 200:
            error = answer.json()["error"]
            assert error["message"] and error["type"] == "invalid_request_error", error
        elif answer.headers["content-type"].startswith("text/event-stream"):
            assert '"code":"internal"' not in answer.text, (body, answer.text)
    assert outcomes.get(200, 0) > 0 and outcomes[400] > COUNT * 0.3, outcomes
    loads = [served.services.target_engine.load(), served.services.draft_engine.load()]  # type: ignore[union-attr]
    assert [load.sequences for load in loads] == [0, 0]


async def test_memory_does_not_grow_with_them(served: Gateway) -> None:
    drawn = random.Random(1)
    peaks = []
    for _ in range(3):
        for _ in range(120):
            path = drawn.choice(list(GOOD))
            await served.post(path, mutated(drawn, {**GOOD[path], "padding": "x" * 100_000}))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert peaks[2] - peaks[0] < 64 * 1024, peaks  # kilobytes
