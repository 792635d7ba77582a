"""A caller that leaves stops the work at once, and one that reads slowly holds up nobody else."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import Any

import pytest

from tests.gateway.serving import LOSSLESS, Gateway, gateway
from tests.support.tiny import tiny_llama

ENDLESS = {"max_tokens": 30_000, "ignore_eos": True, "speculation": LOSSLESS}
ROUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "completions": ("/v1/completions", {"model": "tiny", "prompt": "Hi", **ENDLESS}),
    "streamed": ("/v1/completions", {"model": "tiny", "prompt": "Hi", "stream": True, **ENDLESS}),
    "prompts": ("/v1/completions", {"model": "tiny", "prompt": ["Hi", "Ho"], "n": 2, **ENDLESS}),
    "chat": (
        "/v1/chat/completions",
        {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": True, **ENDLESS},
    ),
    "native": (
        "/tandem/v1/complete",
        {"text": "Hi", "max_tokens": 30_000, "ignore_end_tokens": True, "speculation": LOSSLESS},
    ),
}


@pytest.fixture
async def long_lived():
    """A context that no test sees the end of."""
    models = [tiny_llama(5, vocabulary=257, context=32768, noise=noise) for noise in (0.0, 0.1)]
    async with gateway(*models) as running:
        yield running


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(served: Gateway, path: str, body: dict[str, Any]) -> Connection:
    """A request over a bare connection, which can be left as one likes."""
    reader, writer = await asyncio.open_connection(served.server.host, served.server.port)
    writer.write(request(path, body))
    await writer.drain()
    return reader, writer


def request(path: str, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


def held(served: Gateway) -> tuple[int, int]:
    """Sequences and bytes of both caches."""
    engines = served.services.target_engine, served.services.draft_engine
    loads = [engine.load() for engine in engines if engine is not None]
    return sum(load.sequences for load in loads), sum(load.cache_bytes for load in loads)


async def until(condition: Any, seconds: float = 10.0) -> float:
    """How long it took."""
    started = time.perf_counter()
    while not condition():
        assert time.perf_counter() - started < seconds
        await asyncio.sleep(0.002)
    return time.perf_counter() - started


@pytest.mark.parametrize("name", ROUTES)
async def test_both_caches_are_free_at_once(long_lived: Gateway, name: str) -> None:
    served, (path, body) = long_lived, ROUTES[name]
    choices = len(body["prompt"]) * 2 if name == "prompts" else 1
    await until(lambda: held(served) == (0, 0))
    took = []
    for way in ("close", "abort"):
        _, writer = await connect(served, path, body)
        await until(lambda: held(served)[0] == 2 * choices and served.services.draft_engine is not None)
        await asyncio.sleep(0.1)
        writer.close() if way == "close" else writer.transport.abort()
        took.append(await until(lambda: held(served) == (0, 0)))
    # A step of these models takes a few milliseconds; on a machine that does other things too, now and then more.
    assert min(took) < 0.15, took
    counts = served.completions.telemetry.exposition().decode()
    assert f'tandem_requests_total{{outcome="cancelled",route="{path}"}}' in counts
    assert 'tandem_requests_in_progress{route="' + path + '"} 0.0' in counts


async def test_one_who_leaves_before_the_answer_begins_is_noticed(long_lived: Gateway) -> None:
    """While the prompt is still being taken in, nothing is written that could fail."""
    body = {"model": "tiny", "prompt": "x" * 20_000, "max_tokens": 5, "stream": True}
    _, writer = await connect(long_lived, "/v1/completions", body)
    await until(lambda: held(long_lived)[0] > 0)
    writer.transport.abort()
    assert await until(lambda: held(long_lived) == (0, 0)) < 2
    assert 'route="/v1/completions",status="499"' in long_lived.completions.telemetry.exposition().decode()


async def test_half_a_body_is_no_request(long_lived: Gateway) -> None:
    _, writer = await asyncio.open_connection(long_lived.server.host, long_lived.server.port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n")
    writer.write(b"content-length: 100\r\n\r\n{")
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.transport.abort()
    served = 'route="/v1/completions",status="499"'
    await until(lambda: served in long_lived.completions.telemetry.exposition().decode())


async def test_a_slow_reader_holds_up_only_itself(long_lived: Gateway) -> None:
    path, body = ROUTES["native"]
    long_lived.server._sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)  # soon full
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((long_lived.server.host, long_lived.server.port))
        connection.sendall(request(path, {**body, "audit": True, "log_probabilities": 20}))
        connections = long_lived.server._server.server_state.connections
        await until(lambda: any(each.flow.write_paused for each in connections), 60)
        full = made(long_lived)
        began = time.perf_counter()
        texts = [long_lived.text("Hi", max_tokens=20, ignore_eos=True) for _ in range(4)]
        assert [answer["usage"]["completion_tokens"] for answer in await asyncio.gather(*texts)] == [20] * 4
        assert time.perf_counter() - began < 20
        await asyncio.sleep(0.5)
        # A few rounds are made ahead of a reader, then none.
        assert 80 <= made(long_lived) - full <= 80 + 6 * 4
        assert held(long_lived)[0] == 2
    await until(lambda: held(long_lived) == (0, 0))


def made(served: Gateway) -> float:
    """Tokens, by the metrics."""
    lines = served.completions.telemetry.exposition().decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("tandem_completion_tokens_total "))
