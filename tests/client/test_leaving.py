"""A caller that leaves a stream, by whatever way, stops the work behind it."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

import tandem
from tandem.client import Stream
from tests.client.conftest import until_idle
from tests.support.tokens import ids
from tests.support.trio import Trio

PROMPT = ids("To be or not to be")
#: Minutes of work.
ENDLESS: dict[str, Any] = {"ignore_end_tokens": True, "max_tokens": 30_000, "speculation": "off"}


def leave_with(client: tandem.Client) -> Stream:
    with client.stream(PROMPT, **ENDLESS) as stream:
        next(stream)
    return stream


def leave_by_closing(client: tandem.Client) -> Stream:
    stream = client.stream(PROMPT, **ENDLESS)
    next(stream)
    stream.close()
    stream.close()
    assert list(stream) == []
    return stream


def leave_a_loop(client: tandem.Client) -> None:
    for delta in client.stream(PROMPT, **ENDLESS):
        if delta.text:
            break


def leave_by_an_exception(client: tandem.Client) -> Stream:
    with pytest.raises(ZeroDivisionError), client.stream(PROMPT, **ENDLESS) as stream:
        for _ in stream:
            _ = 1 / 0
    return stream


def leave_unread(client: tandem.Client) -> None:
    stream = client.stream(PROMPT, **ENDLESS)
    time.sleep(0.1)  # it has begun without being read
    del stream


def leave_from_another_thread(client: tandem.Client) -> Stream:
    stream = client.stream(PROMPT, **ENDLESS)
    timer = threading.Timer(0.1, stream.close)
    timer.start()
    began = time.monotonic()
    assert len(list(stream)) > 1 and time.monotonic() - began < 5.0
    timer.join()
    return stream


@pytest.mark.parametrize(
    "leave",
    [leave_with, leave_by_closing, leave_a_loop, leave_by_an_exception, leave_unread, leave_from_another_thread],
)
async def test_leaving_a_blocking_stream_ends_its_work(services: Trio, endpoint: str, leave: Any) -> None:
    def blocking() -> tuple[tandem.Client, Stream | None]:
        client = tandem.Client(endpoint)
        assert len(client.complete(PROMPT, max_tokens=2).token_ids) == 2
        return client, leave(client)

    client, stream = await asyncio.to_thread(blocking)
    await until_idle(services)  # while the client is still open, and the stream not dropped
    client.close()
    del stream


async def test_closing_the_client_ends_its_streams(services: Trio, endpoint: str) -> None:
    def blocking() -> None:
        with tandem.Client(endpoint) as client:
            stream = client.stream(PROMPT, **ENDLESS)
            next(stream)
        with pytest.raises(tandem.client.TandemError):
            list(stream)

    await asyncio.to_thread(blocking)
    await until_idle(services)


@pytest.mark.parametrize("way", ["with", "close", "loop", "dropped", "task", "timeout", "close from another task"])
async def test_leaving_an_async_stream_ends_its_work(services: Trio, endpoint: str, way: str) -> None:
    async with tandem.AsyncClient(endpoint) as client:
        stream = client.stream(PROMPT, **ENDLESS)
        if way == "with":
            async with stream:
                await anext(stream)
        elif way == "close":
            await anext(stream)
            await stream.close()
            await stream.close()
            assert [delta async for delta in stream] == []
        elif way == "loop":
            async for _ in stream:
                break
        elif way == "dropped":
            await asyncio.sleep(0.1)  # it has begun without being read
        elif way == "task":
            task = asyncio.create_task(stream.result())
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        elif way == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await stream.result()
        else:
            task = asyncio.create_task(_count(stream))
            await asyncio.sleep(0.1)
            await stream.close()
            assert await task > 0
        if way not in ("loop", "dropped"):
            await until_idle(services)
        del stream
        await until_idle(services)


async def _count(stream: tandem.client.AsyncStream) -> int:
    return len([delta async for delta in stream])


@pytest.mark.parametrize("seconds", [0.2, 0.001])
async def test_the_deadline_ends_the_work_and_is_told(services: Trio, endpoint: str, seconds: float) -> None:
    def blocking() -> None:
        with tandem.Client(endpoint, timeout=seconds) as client, pytest.raises(tandem.client.DeadlineError) as error:
            client.complete(PROMPT, **ENDLESS)
        assert error.value.code.name == "DEADLINE_EXCEEDED" and endpoint in str(error.value)

    await services.complete([1, 2, 3], max_tokens=1)  # until then it is not known whether there is a target
    began = time.monotonic()
    await asyncio.to_thread(blocking)
    async with tandem.AsyncClient(endpoint) as client:
        with pytest.raises(TimeoutError):
            await client.complete(PROMPT, timeout=seconds, **ENDLESS)
    assert time.monotonic() - began < 2 * seconds + 3.0
    await until_idle(services)
