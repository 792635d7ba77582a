"""How long a server waits for a peer that has begun a call and then neither speaks nor reads.

Its place, its sequence and what was made for it are held meanwhile, and others are refused for want of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc

from tandem.rpc.errors import TandemError

#: Seconds until the first message of a stream.
OPENING_SECONDS = 60.0
#: Seconds for which a peer may leave unread what was sent to it, once no more of it is on its way.
READING_SECONDS = 300.0


class NotReadError(Exception):
    """A peer has left unread what was sent to it."""


async def spoken(requests: AsyncIterator[Any], seconds: float) -> AsyncGenerator[Any]:
    """The messages of a stream. Raises TandemError UNEXPECTED_MESSAGE where the first takes longer; between two of them
    a peer may take the time that its own work takes."""
    try:
        async with asyncio.timeout(seconds):
            first = await anext(requests, None)
    except TimeoutError:
        raise TandemError.unexpected_message(f"no message has come within {seconds:g} s") from None
    if first is None:
        return
    yield first
    async for request in requests:
        yield request


async def read(context: grpc.aio.ServicerContext, response: Any, seconds: float) -> None:
    """Writes a response. Raises NotReadError."""
    try:
        async with asyncio.timeout(seconds):
            await context.write(response)
    except TimeoutError:
        raise NotReadError(f"{seconds:g} s") from None
