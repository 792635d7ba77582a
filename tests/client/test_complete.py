"""What the clients give is what the services said, whole or in pieces, blocking or not."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import tandem
from tandem.client import (
    BadInputError,
    BusyError,
    Completion,
    DeadlineError,
    Message,
    TandemError,
    Tool,
    UnavailableError,
)
from tandem.client.requests import complete_request
from tandem.v1 import completion_pb2
from tests.support.tokens import ids
from tests.support.trio import Trio

PROMPT = ids("To be or not to be")
SAMPLED: dict[str, Any] = {"temperature": 1.0, "seed": 5, "max_tokens": 24}

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "text": ("To be", {"max_tokens": 20}),
    "tokens": (PROMPT, {"max_tokens": 20, "speculation": "off"}),
    "chat": (
        [{"role": "system", "content": "Be brief."}, Message("user", "Hi", name="Ann")],
        {"max_tokens": 9, "tools": [Tool("f", "does f", {"type": "object"})], "template_arguments": {"mood": "x"}},
    ),
    "sampled": (PROMPT, {**SAMPLED, "speculation": {"stop": "fixed", "accept": "coupled", "max_tokens": 3}}),
    "several": (PROMPT, {**SAMPLED, "n": 3, "log_probabilities": 2, "speculation": "block"}),
    "told": (PROMPT, {"max_tokens": 20, "audit": True, "log_probabilities": 3, "return_prompt_token_ids": True}),
    "echo": ("To be", {"max_tokens": 20, "echo": True, "min_tokens": 4}),
    "schema": ("x", {"max_tokens": 60, "json_schema": {"enum": ["red", "green"]}}),
}


def check_same(found: Completion, said: completion_pb2.CompleteOnceResponse, *, seeded: bool) -> None:
    """Whether a completion has all that a unary answer to the same request has, times and ids apart."""
    choices: list[Any] = [said, *said.more_choices]
    assert len(found.choices) == len(choices)
    assert found.prompt_token_ids == tuple(said.prompt_token_ids)
    for ours, theirs in zip(found.choices, choices, strict=True):
        assert (ours.text, ours.token_ids) == (theirs.text, tuple(theirs.token_ids))
        assert [each.token_id for each in ours.tokens] == [each.token_id for each in theirs.tokens]
        assert [each.source for each in ours.tokens] == [
            completion_pb2.TokenSource.Name(each.source).removeprefix("TOKEN_SOURCE_").lower()
            for each in theirs.tokens
        ]
        assert [(each.token_id, each.token, len(each.top)) for each in ours.log_probabilities] == [
            (each.token_id, each.token, len(each.top)) for each in theirs.log_probabilities
        ]
        assert ours.usage.completion_tokens == theirs.finish.usage.completion_tokens == len(ours.token_ids)
        assert ours.usage.prompt_tokens == theirs.finish.usage.prompt_tokens
        if seeded:
            assert ours.finish.seed == theirs.finish.seed == SAMPLED["seed"]
        reason = completion_pb2.FinishReason.Name(theirs.finish.reason)
        assert ours.finish.reason == reason.removeprefix("FINISH_REASON_").lower()
        report, theirs_report = ours.speculation, theirs.finish.speculation
        assert (report.stop_rule, report.accept_rule) == (theirs_report.stop_rule, theirs_report.accept_rule)
        assert report.lossy == theirs_report.lossy


@pytest.mark.parametrize("name", CASES)
async def test_both_clients_give_what_the_services_said(services: Trio, endpoint: str, name: str) -> None:
    prompt, options = CASES[name]
    seeded = "seed" in options
    request = complete_request(prompt, options)
    said = await services.stub.CompleteOnce(completion_pb2.CompleteOnceRequest(completion=request))

    def blocking() -> tuple[Completion, Completion, list[tandem.client.Delta]]:
        with tandem.Client(endpoint, timeout=60.0) as client:
            whole = client.complete(prompt, **options)
            with client.stream(prompt, **options) as stream:
                deltas = list(stream)
                assert list(stream) == []  # it has ended and stays so
                return whole, stream.result(), deltas

    whole, gathered, deltas = await asyncio.to_thread(blocking)
    check_same(whole, said, seeded=seeded)
    check_same(gathered, said, seeded=seeded)
    if name not in ("schema", "sampled"):  # the first ends at once, the second may draft further than it likes
        assert len(deltas) > 3
    for number, choice in enumerate(gathered.choices):
        mine = [delta for delta in deltas if delta.choice == number]
        assert "".join(delta.text for delta in mine) == choice.text
        assert [delta.finish is not None for delta in mine] == [False] * (len(mine) - 1) + [True]
    assert bool(gathered.rounds) == bool(options.get("audit"))

    async with tandem.AsyncClient(endpoint, timeout=60.0) as client:
        check_same(await client.complete(prompt, **options), said, seeded=seeded)
        async with client.stream(prompt, **options) as stream:
            texts = [delta.text async for delta in stream if delta.choice == 0]
            assert "".join(texts) == stream.text == (await stream.result()).text == said.text


async def test_text_is_there_as_it_comes(endpoint: str) -> None:
    async with tandem.AsyncClient(endpoint) as client, client.stream(PROMPT, max_tokens=30) as stream:
        with pytest.raises(ValueError, match="has not begun"):
            stream._gathering.completion()
        first = await anext(stream)
        assert stream.text == first.text
        whole = await stream.result()
    assert whole.text.startswith(first.text) and len(whole.token_ids) == 30


async def test_what_is_served_and_how_busy_it_is(services: Trio, endpoint: str) -> None:
    def blocking() -> tuple[Any, Any, Any, str]:
        with tandem.Client(endpoint) as client:
            tokens = client.tokenize([Message("user", "é")], template_arguments={"mood": "!"})
            return client.models(), client.load(), tokens, client.detokenize(tokens.token_ids)

    models, load, tokens, text = await asyncio.to_thread(blocking)
    assert (models.target.model_id, models.target.vocabulary_size, models.draft.model_id) == ("tiny", 257, "tiny-draft")
    assert load.completions == 0 and load.target.sessions == 0 and load.draft is not None
    assert tokens.context_length == models.target.context_length and text == "user:é;!"
    async with tandem.AsyncClient(endpoint) as client:
        assert (await client.models(), await client.tokenize("é")) == (models, await client.tokenize("é"))
        assert (await client.tokenize("ab<end>")).token_ids == (*ids("ab"), 0)
        assert await client.detokenize([*ids("ab"), 0], skip_special_tokens=True) == "ab"
        stream = client.stream(PROMPT, ignore_end_tokens=True, max_tokens=10_000)
        await anext(stream)
        assert (await client.load()).completions == 1
        await stream.close()


async def test_calls_of_many_threads_share_a_client(endpoint: str) -> None:
    def blocking() -> None:
        def ask(number: int) -> Completion:
            return client.complete(PROMPT, max_tokens=number, speculation="exact")

        with tandem.Client(endpoint, timeout=60.0) as client:
            with ThreadPoolExecutor(8) as pool:
                found = list(pool.map(ask, range(1, 9)))
            longest = found[-1].token_ids
            assert [each.token_ids for each in found] == [longest[:number] for number in range(1, 9)]

    await asyncio.to_thread(blocking)


async def test_a_stream_that_was_closed_has_no_result(endpoint: str) -> None:
    async with tandem.AsyncClient(endpoint) as client:
        stream = client.stream(PROMPT, ignore_end_tokens=True, max_tokens=10_000)
        await anext(stream)
        await stream.close()
        with pytest.raises(ValueError, match="closed before its end"):
            await stream.result()

    def blocking() -> None:
        with tandem.Client(endpoint) as client:
            stream = client.stream(PROMPT, ignore_end_tokens=True, max_tokens=10_000)
            next(stream)
            stream.close()
            with pytest.raises(ValueError, match="closed before its end"):
                stream.result()

    await asyncio.to_thread(blocking)


def test_errors_are_one_family() -> None:
    for kind in (BadInputError, BusyError, DeadlineError, UnavailableError):
        assert issubclass(kind, TandemError)
    assert issubclass(DeadlineError, TimeoutError) and issubclass(BadInputError, ValueError)
