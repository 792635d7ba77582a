"""Servers of completions that are started here: their process, and a client of their OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import IO, Any

import httpx2

from bench.peers.side import Answer, Ids, SideError, one_line

_HOST = "127.0.0.1"
_START_SECONDS, _ANSWER_SECONDS, _STOP_SECONDS, _ASK_AGAIN_SECONDS = 900.0, 600.0, 30.0, 0.25


@dataclass(frozen=True, slots=True)
class Setup:
    """What servers are to serve. target, draft: folders. context: tokens that a prompt and its completion may take.
    clients: most at once. eagle_head: a folder or an id. GGUF files are for llama.cpp, which reads no folders."""

    target: str
    draft: str | None
    dtype: str
    threads: int | None
    context: int
    clients: int
    eagle_head: str | None = None
    target_gguf: str | None = None
    draft_gguf: str | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """name: of the side. command: of its process, by the port that it is to listen on. model: as requests name it.
    extra: what requests have besides the fields of the API. note: for the table."""

    name: str
    command: Callable[[int], Sequence[str]]
    model: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


class ServerSide:
    """Talks to one server."""

    def __init__(self, server: Server, client: httpx2.AsyncClient) -> None:
        self.name = server.name
        self._server = server
        self._client = client

    async def complete(self, prompts: Sequence[Ids], tokens: int) -> list[Answer]:
        return list(await asyncio.gather(*(self._complete(prompt, tokens) for prompt in prompts)))

    def note(self, clients: int) -> str:
        return ", ".join(filter(None, (self._server.note, "by itself, before the others")))

    async def _complete(self, prompt: Ids, tokens: int) -> Answer:
        request = {
            "model": self._server.model, "prompt": list(prompt), "max_tokens": tokens, "temperature": 0,
            "ignore_eos": True, "stream": False, **self._server.extra,
        }  # fmt: skip
        try:
            response = await self._client.post("/v1/completions", json=request)
            if response.is_error:
                raise SideError(f"answers {response.status_code}: {one_line(response.text)[:200]}")
            answer = response.json()
            choice, count = answer["choices"][0], int(answer["usage"]["completion_tokens"])
            ids, text = choice.get("token_ids"), str(choice["text"])
        except httpx2.HTTPError as error:
            raise SideError(f"does not answer: {error!r}") from error
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise SideError(f"its answer is no completion: {error!r}") from error
        return Answer(count, None if ids is None else tuple(ids), text)


@asynccontextmanager
async def started(server: Server, environment: Mapping[str, str]) -> AsyncIterator[ServerSide]:
    """The server's side while it runs. Raises SideError where it does not start."""
    port = _free_port()
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                list(server.command(port)), env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # with what it starts itself it is stopped as one group
            )  # fmt: skip
        except OSError as error:
            raise SideError(f"did not start: {error}") from error
        try:
            base = f"http://{_HOST}:{port}"
            # No proxy, whatever the environment says: the server is on this machine.
            async with httpx2.AsyncClient(base_url=base, timeout=_ANSWER_SECONDS, trust_env=False) as client:
                await _ready(process, client, log)
                yield ServerSide(server, client)
        finally:
            _stop(process)


async def _ready(process: subprocess.Popen[bytes], client: httpx2.AsyncClient, log: IO[bytes]) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            log.seek(0)
            raise SideError(f"did not start: {one_line(log.read().decode(errors='replace'))[:200]}")
        try:
            if (await client.get("/health", timeout=5.0)).is_success:
                return
        except httpx2.HTTPError:
            pass  # not listening yet
        await asyncio.sleep(_ASK_AGAIN_SECONDS)
    raise SideError(f"did not start within {_START_SECONDS:g} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
