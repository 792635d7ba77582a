"""A trio for tests that are not coroutines: it lives in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def in_thread(opened: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """What the context manager gives, entered and left on another thread's event loop."""
    ready: Future[T] = Future()
    loop = asyncio.new_event_loop()
    leave = asyncio.Event()

    async def live() -> None:
        try:
            async with opened as inside:
                ready.set_result(inside)
                await leave.wait()
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=lambda: loop.run_until_complete(live()), daemon=True)
    thread.start()
    try:
        yield ready.result(60)
    finally:
        loop.call_soon_threadsafe(leave.set)
        thread.join(60)


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

