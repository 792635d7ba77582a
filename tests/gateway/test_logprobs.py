"""Log-probabilities in both of OpenAI's forms are those of a plain forward pass, under every policy."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.gateway.serving import LOSSLESS, Gateway, pair
from tests.support.tokens import END, ids

#: Special, or a byte that no text has (which the library of the grammars keeps for its own use).
NO_TEXT = (END, 256)
LOSSY = {"stop": {"fixed": {}, "max_tokens": 3}, "accept": {"jsd": {"threshold": 0.6}}}
POLICIES: list[Any] = ["off", "lossless", "reproducible", "adasd", "adasd-kde", LOSSLESS, LOSSY]


def expected(prompt: list[int], text: list[int]) -> torch.Tensor:
    """log p [n, V] of what follows the prompt and each token of the text."""
    with torch.no_grad():
        logits = pair()[0].model(torch.tensor([prompt + text])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.float(), dim=-1)


def name(token: int) -> str:
    """What a token of these tests' tokenizer is called: its character, its byte, its id."""
    if token in NO_TEXT:
        return f"token_id:{token}"
    return chr(token - 1) if token - 1 < 128 else f"bytes:\\x{token - 1:02x}"


@pytest.mark.parametrize("number", range(len(POLICIES)))
async def test_of_a_conversation(served: Gateway, number: int) -> None:
    body = {"max_tokens": 30, "seed": 2, "logprobs": True, "top_logprobs": 3, "return_token_ids": True}
    (choice,) = (await served.chat(speculation=POLICIES[number], **body))["choices"]
    entries, tokens = choice["logprobs"]["content"], choice["token_ids"]
    assert len(entries) == len(tokens)
    for entry, token, row in zip(entries, tokens, expected(ids("user:Hi;"), tokens), strict=True):
        assert entry["token"] == name(token) and entry["bytes"] == (None if token in NO_TEXT else [token - 1])
        assert entry["logprob"] == pytest.approx(float(row[token]), abs=1e-4)
        values, likeliest = row.topk(3)
        assert [top["token"] for top in entry["top_logprobs"]] == [name(other) for other in likeliest.tolist()]
        assert [top["logprob"] for top in entry["top_logprobs"]] == pytest.approx(values.tolist(), abs=1e-4)


@pytest.mark.parametrize("number", range(len(POLICIES)))
async def test_of_a_text(served: Gateway, number: int) -> None:
    body = {"max_tokens": 30, "seed": 2, "logprobs": 2, "return_token_ids": True}
    (choice,) = (await served.text(speculation=POLICIES[number], **body))["choices"]
    found, tokens = choice["logprobs"], choice["token_ids"]
    assert found["tokens"] == [name(token) for token in tokens]
    log_p = expected(ids("Hi"), tokens)
    for index, (token, row) in enumerate(zip(tokens, log_p, strict=True)):
        assert found["token_logprobs"][index] == pytest.approx(float(row[token]), abs=1e-4)
        top = {name(other): float(row[other]) for other in [*row.topk(2).indices.tolist(), token]}
        assert found["top_logprobs"][index] == pytest.approx(top, abs=1e-4)


async def test_offsets_are_where_tokens_begin_in_the_text(served: Gateway) -> None:
    for stop in (None, "a€", "é"):
        said = {"max_tokens": 60, "logprobs": 0, "seed": 5, "guided_regex": "[aé€]{20}", "stop": stop}
        (choice,) = (await served.text(**said))["choices"]
        text, found = choice["text"], choice["logprobs"]
        assert found["text_offset"] == sorted(found["text_offset"]) and found["text_offset"][0] == 0
        for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
            if offset < len(text) and not token.startswith("token_id"):
                shown = text[offset].encode()
                assert token == text[offset] or bytes.fromhex(token.removeprefix("bytes:\\x")) in shown
        assert set(found["text_offset"]) >= set(range(len(text)))
        assert all(len(top) == 1 for top in found["top_logprobs"])


async def test_a_stream_has_the_same_ones(served: Gateway) -> None:
    body: dict[str, Any] = {"model": "tiny", "prompt": "Hi", "max_tokens": 25, "seed": 6, "logprobs": 1}
    whole = (await served.client.completions.create(**body)).choices[0].logprobs
    assert whole is not None
    pieces = [chunk.choices[0].logprobs async for chunk in await served.client.completions.create(**body, stream=True)]
    for column in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        streamed = sum((getattr(piece, column) for piece in pieces if piece is not None), [])
        for one, other in zip(streamed, getattr(whole, column), strict=True):
            assert one == (pytest.approx(other, abs=1e-4) if column.endswith("logprobs") else other)
    talk: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "logprobs": True, "top_logprobs": 2}
    body = {"model": "tiny", "max_tokens": 25, "seed": 6, **talk}
    entries = (await served.client.chat.completions.create(**body)).choices[0].logprobs
    assert entries is not None and entries.content is not None
    stream = await served.client.chat.completions.create(**body, stream=True)
    told = [chunk.choices[0].logprobs async for chunk in stream]
    streamed = sum((piece.content or [] for piece in told if piece is not None), [])
    assert [entry.token for entry in streamed] == [entry.token for entry in entries.content]
    logprobs = [entry.logprob for entry in entries.content]
    assert [entry.logprob for entry in streamed] == pytest.approx(logprobs, abs=1e-4)
