"""A completion that was lost goes on over HTTP, too: on Tandem's own route."""

from __future__ import annotations

import json
from typing import Any

from tests.gateway.serving import LOSSLESS, Gateway

ASKED: dict[str, Any] = {"text": "Hi", "max_tokens": 30, "ignore_end_tokens": True, "speculation": LOSSLESS}


async def events(served: Gateway, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await served.post("/tandem/v1/complete", body)
    assert answer.status_code == 200, answer.text
    *found, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(each.removeprefix("data: ")) for each in found]


async def test_the_rest_of_a_completion_comes_as_if_it_had_not_been_lost(served: Gateway) -> None:
    whole = await events(served, ASKED)
    before = whole[:4]
    ids = [token for event in before for token in event["token_ids"]]
    rest = await events(served, {**ASKED, "resume": {"ids": ids}})
    assert "".join(event.get("text", "") for event in before + rest) == "".join(
        event.get("text", "") for event in whole
    )
    assert rest[-1]["finish"]["usage"]["completion_tokens"] == whole[-1]["finish"]["usage"]["completion_tokens"] == 30


async def test_what_cannot_be_gone_on_with_is_refused_by_name(served: Gateway) -> None:
    error = await served.error("/tandem/v1/complete", {**ASKED, "resume": {"ids": [1, 300]}})
    assert error["param"] == "resume.ids[1]"
    for path, prompt in (("/v1/completions", {"prompt": "Hi"}), ("/v1/chat/completions", {"messages": []})):
        error = await served.error(path, {"model": "tiny", **prompt, "resume": {"ids": [1]}})
        assert error["param"] == "resume"
