"""Serving with a model over several processes: when one of them is lost, this one says so to its callers and ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tandem.inference.engine import Engine
from tandem.inference.parallel.group import Leader
from tandem.inference.parallel.member import GroupLostError, leave
from tandem.rpc.server import Server

_log = logging.getLogger(__name__)

#: For answers that are on their way, NOT_SERVING among them.
_FAREWELL_SECONDS = 1.0


async def serve_while_whole(server: Server, engine: Engine, group: Leader, on_started: Callable[[int], None]) -> None:
    """As `Server.serve_forever`, while the group is whole. Where it is not any more: health is NOT_SERVING, open
    streams end with SHUTTING_DOWN, and the process with exit code 1, so that whatever started the group starts it
    again."""
    loop = asyncio.get_running_loop()
    lost: asyncio.Future[str] = loop.create_future()

    def note(reason: str) -> None:
        with suppress(RuntimeError):  # the loop has been closed: this process ends already
            loop.call_soon_threadsafe(lost.set_result, reason)

    group.when_lost(note)
    serving: asyncio.Future[None] = asyncio.ensure_future(server.serve_forever(on_started=on_started))
    futures: set[asyncio.Future[Any]] = {serving, lost}
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    if not lost.done():
        return await serving
    _log.error("%s: no longer serving", lost.result())
    engine.fail(GroupLostError(lost.result()))
    server.grace_seconds = min(server.grace_seconds, _FAREWELL_SECONDS)
    with suppress(Exception):
        await asyncio.wait_for(server.drain(), _FAREWELL_SECONDS + 1)
    leave(1)
