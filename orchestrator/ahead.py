"""Work that goes on while its last result is still being written to the caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


async def ahead(sources: Sequence[AsyncGenerator[T]], most: int) -> AsyncGenerator[T]:
    """Yields what the sources yield, as it comes; each runs in a task of its own, and all together at most `most` items
    ahead of the reader.

    Raises what a source raises, after the items before it. Leaving closes all of them.
    """
    items: asyncio.Queue[tuple[T] | Exception | None] = asyncio.Queue(most)

    async def fill(source: AsyncGenerator[T]) -> None:
        try:
            async with aclosing(source):
                async for item in source:
                    await items.put((item,))
        except Exception as error:
            await items.put(error)
        else:
            await items.put(None)

    tasks = {asyncio.create_task(fill(source)) for source in sources}
    under_way = len(tasks)
    try:
        while under_way:
            entry = await items.get()
            if isinstance(entry, Exception):
                raise entry
            if entry is None:
                under_way -= 1
            else:
                yield entry[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
