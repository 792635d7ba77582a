"""A caller of HTTP may say how long it waits; what is not done by then ends, is told so and leaves nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.gateway.serving import LOSSLESS, TOKENIZER, Gateway, gateway
from tests.support.gate import until
from tests.support.tiny import tiny_llama

HEADER = "x-request-timeout"
ENDLESS: dict[str, Any] = {"max_tokens": 30_000, "ignore_eos": True, "speculation": LOSSLESS}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], **ENDLESS}
TEXT = {"model": "tiny", "prompt": "Hi", **ENDLESS}
NATIVE = {"text": "Hi", "max_tokens": 30_000, "ignore_end_tokens": True, "speculation": LOSSLESS}


@pytest.fixture
async def long_lived() -> AsyncIterator[Gateway]:
    """A context that no test sees the end of."""
    models = [tiny_llama(5, vocabulary=257, context=32768, noise=noise) for noise in (0.0, 0.1)]
    async with gateway(*models) as running:
        yield running


async def freed(served: Gateway) -> None:
    engines = served.services.target_engine, served.services.draft_engine
    await until(lambda: not any(engine and engine.load().sequences for engine in engines))
    await until(lambda: served.completions._under_way == 0)


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/completions", TEXT), ("/v1/chat/completions", CHAT)], ids=["text", "chat"]
)
async def test_an_answer_that_is_late_is_a_504_that_says_so(
    long_lived: Gateway, path: str, body: dict[str, Any]
) -> None:
    began = time.monotonic()
    answer = await long_lived.http.post(path, json=body, headers={HEADER: "0.4"})
    assert answer.status_code == 504 and time.monotonic() - began < 10
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("deadline_exceeded", "server_error") and "time" in error["message"]
    await freed(long_lived)


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/completions", TEXT), ("/v1/chat/completions", CHAT), ("/tandem/v1/complete", NATIVE)],
    ids=["text", "chat", "native"],
)
async def test_a_stream_that_is_late_ends_with_an_event_that_says_so(
    long_lived: Gateway, path: str, body: dict[str, Any]
) -> None:
    streamed = {} if path.startswith("/tandem") else {"stream": True}
    async with long_lived.http.stream("POST", path, json={**body, **streamed}, headers={HEADER: "3"}) as answer:
        assert answer.status_code == 200
        text = (await answer.aread()).decode()  # raises where the connection was cut
    *before, last, rest = text.split("\n\n")
    assert before and rest == "" and "[DONE]" not in text
    assert last.startswith("event: error\n" if path.startswith("/tandem") else "data: ")
    assert json.loads(last.partition("data: ")[2])["error"]["code"] == "deadline_exceeded"
    await freed(long_lived)


async def test_waiting_for_a_target_is_waiting_too() -> None:
    async with gateway(tiny_llama(5, vocabulary=257), None, TOKENIZER, connect_timeout_seconds=60.0) as served:
        await served.services.target._stop(None)
        targets = served.completions._upstream._targets
        await until(lambda: not targets.ready)
        for path, body in (("/tandem/v1/complete", NATIVE), ("/v1/completions", TEXT)):
            answer = await served.http.post(path, json=body, headers={HEADER: "0.3"})
            # 503 where the orchestrator gives up in time to say why.
            assert answer.status_code in (503, 504), answer.text
            await until(lambda: targets._waiting == 0)


async def test_a_body_that_does_not_come_is_not_waited_for(long_lived: Gateway) -> None:
    reader, writer = await asyncio.open_connection(long_lived.server.host, long_lived.server.port)
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{HEADER}: 0.3\r\n"
    writer.write(f"{head}content-length: 100\r\n\r\n{{".encode())
    status = await asyncio.wait_for(reader.readline(), 10)
    assert b" 504 " in status
    writer.close()


@pytest.mark.parametrize("value", ["0", "-1", "soon", "1e3", "nan", "inf", "86401", "", "1, 2", "0.0"])
async def test_a_value_that_is_no_time_is_refused_by_name(long_lived: Gateway, value: str) -> None:
    for path, body in (("/v1/completions", TEXT), ("/tandem/v1/complete", NATIVE)):
        answer = await long_lived.http.post(path, json=body, headers={HEADER: value})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_field", HEADER), answer.text
        assert "86400" in error["message"]


async def test_a_time_that_is_named_twice_is_refused(long_lived: Gateway) -> None:
    headers = [(HEADER, "3"), (HEADER, "4")]
    answer = await long_lived.http.post("/v1/completions", json=TEXT, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, HEADER)


async def test_time_enough_changes_nothing(long_lived: Gateway) -> None:
    body = {**TEXT, "max_tokens": 10, "temperature": 0}
    answers = [
        await long_lived.http.post("/v1/completions", json=body, headers=headers)
        for headers in ({}, {HEADER: "86400"}, {HEADER: "30.5"})
    ]
    assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1
    client = long_lived.client.with_options(default_headers={HEADER: "60"})  # as a caller would set it once for all
    found = await client.completions.create(model="tiny", prompt="Hi", max_tokens=5)
    assert found.usage is not None and found.usage.completion_tokens <= 5


async def test_the_description_of_the_api_names_the_header(long_lived: Gateway) -> None:
    for _ in range(2):  # what is described once is not described twice
        paths = (await long_lived.http.get("/openapi.json")).json()["paths"]
        for path in ("/v1/completions", "/v1/chat/completions", "/tandem/v1/complete"):
            names = [parameter["name"] for parameter in paths[path]["post"]["parameters"]]
            assert names == [HEADER]
