"""What is no request is the caller's mistake, whatever it is: an error in OpenAI's form, never a 500."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.settings import MAX_BODY_BYTES
from tests.gateway.serving import Gateway

PATHS = ["/v1/chat/completions", "/v1/completions", "/tandem/v1/complete", "/tandem/v1/tokenize"]
JSON = {"content-type": "application/json"}


def body(path: str, text: str) -> bytes:
    """A good request but for the text of JSON in its middle."""
    if path == "/v1/chat/completions":
        return f'{{"model": "tiny", "max_tokens": 1, "messages": [{{"role": "user", "content": {text}}}]}}'.encode()
    if path == "/v1/completions":
        return f'{{"model": "tiny", "max_tokens": 1, "prompt": {text}}}'.encode()
    if path == "/tandem/v1/complete":
        return f'{{"max_tokens": 1, "text": {text}}}'.encode()
    return f'{{"text": {text}}}'.encode()


BROKEN = {
    "empty": b"",
    "no JSON": b"{",
    "more after it": b"{}{}",
    "no object": b"[]",
    "a text": b'"x"',
    "null": b"null",
    "no UTF-8": b'{"model": "\xff"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "nothing said": b"{}",
}
IN_PLACE = {
    "a number": "5", "no number": "NaN", "infinity": "Infinity", "a large number": "1e999", "an object": "{}",
    "a huge integer": "9" * 4000, "a larger one": "9" * 10_000, "a lone surrogate": '"\\ud800"', "true": "true",
    "a surrogate as a name": '{"\\udc00": 1}', "deep": "[" * 150 + "]" * 150, "an unfinished escape": '"\\u12"',
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
async def test_what_cannot_be_read_is_refused(served: Gateway, path: str) -> None:
    contents = {**BROKEN, **{name: body(path, text) for name, text in IN_PLACE.items()}}
    for name, content in contents.items():
        answer = await served.http.post(path, content=content, headers=JSON)
        assert answer.status_code == 400, (name, answer.text)
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
        assert error["code"] in ("invalid_field", "not_supported") and len(error["message"]) < 1000, (name, error)
    answer = await served.http.post(path, content=body(path, '"\\ud83d\\ude00"'), headers=JSON)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", PATHS)
async def test_only_json_that_says_so_is_read(served: Gateway, path: str) -> None:
    good = body(path, '"Hi"')
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "json", "a;b/c"):
        answer = await served.http.post(path, content=good, headers={"content-type": kind})
        assert answer.status_code == 400 and "content-type" in answer.json()["error"]["message"]
    answer = await served.http.post(path, content=good, headers={"content-type": "Application/JSON; charset=utf-8"})
    assert answer.status_code == 200


@pytest.mark.parametrize("told", [True, False])
async def test_a_body_beyond_the_bound_is_refused_while_it_comes(served: Gateway, told: bool) -> None:
    large = body("/v1/completions", json.dumps("x" * MAX_BODY_BYTES))

    async def pieces() -> Any:
        for start in range(0, len(large), 65536):
            yield large[start : start + 65536]

    answer = await served.http.post("/v1/completions", content=large if told else pieces(), headers=JSON)
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "body_too_large"
    await served.text("still there", max_tokens=1)


async def test_many_mistakes_at_once_cost_no_more_than_one(served: Gateway) -> None:
    """Bodies of some megabytes in which everything is wrong: one error, soon."""
    count = 100_000
    for part in (
        f'"prompt": [{", ".join(["1.5"] * count)}]',
        f'"prompt": [{", ".join(["[1.5]"] * count)}]',
        f'"prompt": "x", "stop": [{", ".join(["1"] * count)}]',
        '"prompt": "x", ' + ", ".join(f'"p{number}": 1' for number in range(count)),
        '"prompt": "x", "logit_bias": {' + ", ".join(f'"p{number}": 1' for number in range(count)) + "}",
        '"prompt": "x", "stream_options": {' + ", ".join(f'"p{number}": 1' for number in range(count)) + "}",
    ):
        answer = await served.http.post(
            "/v1/completions", content=f'{{"model": "tiny", {part}}}'.encode(), headers=JSON
        )
        assert answer.status_code == 400 and len(answer.content) < 2000
        assert answer.elapsed.total_seconds() < 30


async def test_paths_and_methods_that_there_are_not(served: Gateway) -> None:
    for method, path, status in (
        ("GET", "/v1/nowhere", 404), ("POST", "/", 404), ("GET", "/v1/completions", 405), ("DELETE", "/metrics", 405),
        ("POST", "/v1/models", 405), ("GET", "/playground/../secret", 404), ("GET", "/playground/%2e%2e/app.py", 404),
        ("GET", "/v1/%ff%00", 404),
    ):  # fmt: skip
        answer = await served.http.request(method, path)
        assert answer.status_code in (status, 405), (path, answer.text)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("name", ["arguments_json", "parameters_json", "template_arguments_json"])
async def test_json_inside_of_a_request_is_read_as_strictly(served: Gateway, name: str) -> None:
    """Text of a request that is JSON again may hold what no JSON of ours does."""
    for inner in ('{"mood": "\\ud800"}', '{"mood": NaN}', '{"a":' * 5000, "[]"):
        message: dict[str, Any] = {"role": "assistant", "content": "x"}
        chat: dict[str, Any] = {"messages": [message]}
        if name == "arguments_json":
            message["tool_calls"] = [{"name": "f", name: inner}]
        elif name == "parameters_json":
            chat["tools"] = [{"name": "f", name: inner}]
        else:
            chat[name] = inner
        answer = await served.post("/tandem/v1/tokenize", {"chat": chat})
        assert answer.status_code == 400 and answer.json()["error"]["param"].endswith(name), answer.text
