"""Server-sent events: an answer that is written while it is made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from orchestrator.gateway.connection import Gate
from orchestrator.gateway.errors import CALLER_GONE, explain

DONE = b"data: [DONE]\n\n"

_LAST_WORD_SECONDS = 1.0
_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # a proxy must not collect what is there to be seen at once
}


def event(data: Any, name: str = "") -> bytes:
    """One event of JSON. name: its type, where it is not a plain message."""
    return (f"event: {name}\n" if name else "").encode() + b"data: " + to_json(data) + b"\n\n"


class EventStream(Response):
    """Sends events as they come, and no faster than they are read.

    first: an event that is there already; what fails before it is told by a status. events: the others; closed when the
    caller leaves. An error among them is the last event, named `error_event`.
    """

    def __init__(
        self,
        first: bytes,
        events: AsyncGenerator[bytes],
        gate: Gate,
        *,
        error_event: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(headers={**_HEADERS, **(headers or {})})
        del self.headers["content-length"]
        self._first = first
        self._events = events
        self._gate = gate
        self._error_event = error_event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._gate.hold(receive, self._send_all(send))
        except Exception as error:
            told = explain(error, scope["path"])
            if told.status != CALLER_GONE:
                # One who does not read is not waited for.
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_WORD_SECONDS):
                        await self._end(send, event(told.body(), self._error_event))
        else:
            await self._end(send, DONE)

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._events):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await _write(send, self._first)
            async for data in self._events:
                await _write(send, data)

    async def _end(self, send: Send, data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": False})


async def _write(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})
