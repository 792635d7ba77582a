"""Work that goes on while its last result is still being written to the caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


async def ahead(source: AsyncGenerator[T], most: int) -> AsyncGenerator[T]:
    """Yields what `source` yields; `source` runs in a task of its own, at most `most` items ahead of the reader.

    Raises what `source` raises, after the items before it. Leaving closes `source`.
    """
    items: asyncio.Queue[tuple[T] | Exception | None] = asyncio.Queue(most)

    async def fill() -> None:
        try:
            async with aclosing(source):
                async for item in source:
                    await items.put((item,))
        except Exception as error:
            await items.put(error)
        else:
            await items.put(None)

    task = asyncio.create_task(fill())
    try:
        while (entry := await items.get()) is not None:
            if isinstance(entry, Exception):
                raise entry
            yield entry[0]
    finally:
        task.cancel()
        await asyncio.wait({task})
