"""While an orchestrator drains, streams go on within the grace; what is left then is told so, not cut."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.gateway.serving import LOSSLESS, gateway
from tests.support.gate import Gate, until
from tests.support.tiny import tiny_llama

ROUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("/v1/completions", {"model": "tiny", "prompt": "Hi", "stream": True, "ignore_eos": True}),
    "chat": (
        "/v1/chat/completions",
        {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "ignore_eos": True},
    ),
    "native": ("/tandem/v1/complete", {"text": "Hi", "ignore_end_tokens": True}),
}


@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("ends", [True, False], ids=["in time", "not in time"])
async def test_a_stream_goes_on_within_the_grace_and_ends_with_a_word(name: str, ends: bool) -> None:
    target, draft = (tiny_llama(5, vocabulary=257, context=32768, noise=noise) for noise in (0.0, 0.1))
    gate = Gate(target)
    grace = 60.0 if ends else 0.5
    async with gateway(target, draft, grace_seconds=grace) as served:
        path, body = ROUTES[name]
        asked = {**body, "max_tokens": 60 if ends else 30_000, "speculation": LOSSLESS}
        if ends:
            gate.close(10)
        async with served.http.stream("POST", path, json=asked) as answer:
            assert answer.status_code == 200
            pieces = answer.aiter_bytes()
            text = await anext(pieces)
            if ends:
                await until(lambda: gate.is_held)
            draining = asyncio.create_task(served.server.drain())
            await until(lambda: served.server._gate.is_draining)
            gate.open()
            async for piece in pieces:  # raises where the connection is cut
                text += piece
        events = text.decode().split("\n\n")
        assert events.pop() == ""
        if ends:
            assert events[-1] == "data: [DONE]" and '"error"' not in text.decode()
        else:
            assert events[-1].startswith("event: error\ndata: " if name == "native" else "data: ")
            error = json.loads(events[-1].partition("data: ")[2])["error"]
            assert error["code"] == "shutting_down" and "another replica" in error["message"]
        await draining


async def test_one_that_waits_for_its_whole_answer_is_told_too() -> None:
    target, draft = (tiny_llama(5, vocabulary=257, context=32768, noise=noise) for noise in (0.0, 0.1))
    async with gateway(target, draft, grace_seconds=0.3) as served:
        body = {"model": "tiny", "prompt": "Hi", "max_tokens": 30_000, "ignore_eos": True, "speculation": LOSSLESS}
        asking = asyncio.create_task(served.post("/v1/completions", body))
        await until(lambda: served.completions._under_way == 1)
        await served.server.drain()
        answer = await asking
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "shutting_down"
        assert int(answer.headers["retry-after"]) >= 1
