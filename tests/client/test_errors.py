"""What a caller catches says what was wrong, and with which field."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import grpc
import pytest

import tandem
from tandem.client import BadInputError, Retries, TandemError, UnavailableError
from tests.client.conftest import CLOSED, CONTEXT
from tests.support.trio import Trio

ONCE = Retries(attempts=1)

BAD: list[tuple[Any, dict[str, Any], str, str]] = [
    ("x", {"max_tokens": 0}, "INVALID_FIELD", "max_tokens"),
    ("x", {"temperature": -1}, "INVALID_FIELD", "sampling.temperature"),
    ("x", {"n": 2}, "INVALID_FIELD", "n"),
    ([999], {}, "INVALID_FIELD", "tokens.ids[0]"),
    ([], {}, "INVALID_FIELD", "tokens.ids"),
    ("", {}, "INVALID_FIELD", "text"),
    ([{"role": "robot", "content": "x"}], {}, "INVALID_FIELD", "chat.messages[0].role"),
    ("x", {"regex": "("}, "INVALID_FIELD", "grammar.regex"),
    ("x", {"speculation": {"accept": "jsd", "threshold": 2.0}}, "INVALID_FIELD", "speculation.accept.jsd.threshold"),
    ([1] * CONTEXT, {}, "PROMPT_TOO_LONG", "tokens"),
]


@pytest.mark.parametrize(("prompt", "options", "reason", "field"), BAD, ids=[case[3] for case in BAD])
async def test_bad_input_is_told_with_its_field(
    endpoint: str, prompt: Any, options: dict[str, Any], reason: str, field: str
) -> None:
    def blocking() -> BadInputError:
        with tandem.Client(endpoint) as client, pytest.raises(BadInputError) as caught:
            client.complete(prompt, **options)
        return caught.value

    async with tandem.AsyncClient(endpoint) as client:
        with pytest.raises(BadInputError) as caught:
            async for _ in client.stream(prompt, **options):
                pass
    for error in (await asyncio.to_thread(blocking), caught.value):
        assert (error.reason, error.field, error.retry_after) == (reason, field, None)
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        if reason == "PROMPT_TOO_LONG":
            assert error.metadata["context_length"] == str(CONTEXT)


async def test_nobody_there_is_told_with_the_endpoint() -> None:
    def blocking() -> UnavailableError:
        with tandem.Client(CLOSED, retries=ONCE) as client, pytest.raises(UnavailableError) as caught:
            client.models()
        return caught.value

    async with tandem.AsyncClient(CLOSED, retries=ONCE) as client:
        with pytest.raises(UnavailableError) as caught:
            await client.complete("x")
    for error in (await asyncio.to_thread(blocking), caught.value):
        assert error.code is grpc.StatusCode.UNAVAILABLE and CLOSED in str(error)


async def test_a_service_that_is_no_orchestrator_is_told_apart(services: Trio) -> None:
    async with tandem.AsyncClient(services.target.address) as client:
        with pytest.raises(TandemError, match="is not an orchestrator") as caught:
            await client.complete("x")
    assert not isinstance(caught.value, UnavailableError | BadInputError)


async def test_an_orchestrator_that_ends_is_told_and_not_taken_for_the_end_of_the_text(services: Trio) -> None:
    async with tandem.AsyncClient(services.orchestrator.address) as client:
        stream = client.stream([1, 2], ignore_end_tokens=True, max_tokens=30_000)
        await anext(stream)
        await services.orchestrator._stop(None)
        with pytest.raises(TandemError):
            await stream.result()


async def test_a_listener_that_never_answers_does_not_outlast_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with tandem.AsyncClient(f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.3) as client:
            with pytest.raises(TimeoutError):
                await client.models()


@pytest.mark.parametrize("endpoint", ["here", "127.0.0.1", "http://127.0.0.1:7000", ":7000", "127.0.0.1:0"])
def test_an_endpoint_is_host_and_port(endpoint: str) -> None:
    for kind in (tandem.Client, tandem.AsyncClient):
        with pytest.raises(ValueError, match="HOST:PORT"):
            kind(endpoint)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_a_timeout_is_above_0(seconds: float) -> None:
    with tandem.Client(CLOSED) as client, pytest.raises(ValueError, match="timeout"):
        client.complete("x", timeout=seconds)


async def test_an_async_client_belongs_to_one_loop(endpoint: str) -> None:
    async with tandem.AsyncClient(endpoint) as client:
        await client.models()
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(client.models()))
        assert (await client.models()).draft is not None
