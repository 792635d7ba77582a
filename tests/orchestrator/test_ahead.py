from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from orchestrator.ahead import ahead


class Source:
    """Yields 0, 1, 2, ... and remembers how far it got and whether it was closed."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.count, self.error = count, error
        self.reached = 0
        self.closed = False

    async def run(self) -> AsyncGenerator[int]:
        try:
            for number in range(self.count):
                self.reached = number
                await asyncio.sleep(0)
                yield number
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True


async def _settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_all_items_come_in_order() -> None:
    source = Source(100)
    assert [item async for item in ahead([source.run()], 3)] == list(range(100))
    assert source.closed


async def test_the_source_goes_on_while_the_reader_is_busy_but_only_so_far() -> None:
    source = Source(100)
    async with aclosing(ahead([source.run()], 3)) as items:
        assert await anext(items) == 0
        await _settle()
        assert source.reached == 4  # three wait, the fourth is in hand
        assert await anext(items) == 1
        await _settle()
        assert source.reached == 5


async def test_an_error_comes_after_the_items_before_it() -> None:
    received = []
    with pytest.raises(ValueError, match="broken"):
        async for item in ahead([Source(5, ValueError("broken")).run()], 2):
            received.append(item)
    assert received == [0, 1, 2, 3, 4]


async def test_leaving_closes_the_source() -> None:
    source = Source(100)
    async with aclosing(ahead([source.run()], 2)) as items:
        await anext(items)
    assert source.closed


async def test_cancelling_the_reader_closes_a_source_that_waits() -> None:
    closed = asyncio.Event()

    async def waits() -> AsyncGenerator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def read() -> None:
        async with aclosing(ahead([waits()], 1)) as items:
            async for _ in items:
                pass

    reader = asyncio.create_task(read())
    await _settle()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert closed.is_set()
