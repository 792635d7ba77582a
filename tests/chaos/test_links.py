"""The test's own network does what its faults are called: else nothing is tested by them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from tests.chaos.link import Link, Weather

SECONDS = 20.0


@asynccontextmanager
async def linked() -> AsyncGenerator[tuple[Link, list[str]]]:
    """A link to a service that says everything back, and the names that it has seen."""
    names: list[str] = []
    open_ends: set[asyncio.StreamWriter] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ends.add(writer)
        try:
            while data := await reader.read(1024):
                writer.write(data)
            writer.write(b"end")
            writer.write_eof()
        except ConnectionError:
            pass
        finally:
            writer.close()
            open_ends.discard(writer)

    service = await asyncio.start_server(echo, "127.0.0.1", 0)
    link = Link(names.append)
    await link.lead_to(service.sockets[0].getsockname()[1])
    async with service, asyncio.timeout(SECONDS):
        yield link, names
        await link.close()
        while open_ends:  # a link that is closed leaves none of its connections
            await asyncio.sleep(0.01)


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def at(cls, link: Link) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", link.port))

    async def say(self, data: bytes) -> bytes:
        """What comes back."""
        self.writer.write(data)
        return await self.reader.readexactly(len(data))


async def test_fine_weather_passes_everything_and_both_ends() -> None:
    async with linked() as (link, _):
        client = await Client.at(link)
        large = bytes(range(256)) * 20_000
        assert await client.say(large) == large
        client.writer.write_eof()
        assert await client.reader.read() == b"end"
        client.writer.close()


async def test_names_of_requests_are_seen_also_across_two_reads() -> None:
    async with linked() as (link, names):
        client = await Client.at(link)
        await client.say(b"x chaos-0000abcd y")
        await client.say(b"chaos-00")
        await client.say(b"00abce")
        assert names == ["chaos-0000abcd", "chaos-0000abce"]
        client.writer.close()


async def test_a_delay_delays_each_way() -> None:
    async with linked() as (link, _):
        client = await Client.at(link)
        await link.change(Weather(delay=0.1))
        began = time.monotonic()
        await client.say(b"hello")
        assert time.monotonic() - began >= 0.2
        client.writer.close()


async def test_a_throttle_holds_to_its_rate() -> None:
    async with linked() as (link, _):
        client = await Client.at(link)
        await link.change(Weather(rate=10_000))
        began = time.monotonic()
        await client.say(b"x" * 2000)
        assert time.monotonic() - began >= 0.4
        client.writer.close()


async def test_a_stall_loses_nothing() -> None:
    async with linked() as (link, _):
        client = await Client.at(link)
        await link.change(Weather(stalls=True))
        answer = asyncio.ensure_future(client.say(b"hello"))
        new = asyncio.ensure_future(Client.at(link))
        await asyncio.sleep(0.2)
        assert not answer.done()
        await link.change(Weather())
        assert await answer == b"hello"
        assert await (await new).say(b"and") == b"and"
        client.writer.close()


async def test_what_a_blackhole_took_never_comes_and_its_connections_end() -> None:
    async with linked() as (link, _):
        hit, spared = await Client.at(link), await Client.at(link)
        await hit.say(b"a")
        await spared.say(b"a")
        await link.change(Weather(drops=True))
        hit.writer.write(b"hello")
        await asyncio.sleep(0.2)
        await link.change(Weather())
        with pytest.raises(ConnectionError):
            await hit.reader.readexactly(5)
        assert await spared.say(b"b") == b"b"
        spared.writer.close()


async def test_a_cut_is_a_reset() -> None:
    async with linked() as (link, _):
        client = await Client.at(link)
        await client.say(b"a")
        link.cut()
        with pytest.raises(ConnectionError):
            await client.reader.readexactly(1)
        again = await Client.at(link)
        assert await again.say(b"b") == b"b"
        again.writer.close()


async def test_a_half_closed_connection_still_takes_what_is_said() -> None:
    async with linked() as (link, _):
        client = await Client.at(link)
        await client.say(b"a")
        link.half_close()
        assert await client.reader.read() == b""
        client.writer.write(b"x")
        await client.writer.drain()
        client.writer.close()


async def test_who_is_refused_and_who_finds_nobody_is_told_at_once() -> None:
    async with linked() as (link, _):
        client, service = await Client.at(link), link.service
        await client.say(b"a")
        await link.change(Weather(refuses=True))
        with pytest.raises(ConnectionRefusedError):
            await Client.at(link)
        assert await client.say(b"b") == b"b"  # what was open goes on
        await link.change(Weather())
        assert await (await Client.at(link)).say(b"c") == b"c"
        await link.lead_to(None)
        with pytest.raises(ConnectionRefusedError):
            await Client.at(link)
        await link.lead_to(service)
        assert await (await Client.at(link)).say(b"d") == b"d"
        client.writer.close()
