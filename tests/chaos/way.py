"""One connection through a link: what comes from either side goes to the other, as the weather allows."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.chaos.link import Link

# Requests of the test by their names, which stand in the messages that open a sequence.
_NAMES = re.compile(rb"chaos-[0-9a-f]{8}")
_NAME_BYTES = 14
# What may wait on the way in one direction before its sender is held up.
_MOST_WAITING = 1 << 20


class Way:
    """One connection of a caller, and that to the service which goes with it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.has_lost = False
        self.caller = _End(self)
        self.service = _End(self)
        self.caller.other, self.service.other = self.service, self.caller
        self._connecting: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """The caller is there."""
        self.link.ways.add(self)
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        await self.link.fine.wait()
        while self.link.weather.drops:  # a caller waits for an answer to its first packet
            await asyncio.sleep(0.05)
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self.service, "127.0.0.1", self.link.service or 0)
        except OSError:
            self.reset()

    def reset(self) -> None:
        self.caller.reset()
        self.service.reset()
        self.ended()

    def half_close(self) -> None:
        self.caller.say_end()

    def ended(self) -> None:
        self.link.ways.discard(self)
        if self._connecting is not None:
            self._connecting.cancel()


class _End(asyncio.Protocol):
    """One side of a way. What it receives goes to the other side."""

    other: _End

    def __init__(self, way: Way) -> None:
        self._way = way
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[float, bytes]] = deque()  # to be sent to this side, and when
        self._bytes = 0
        self._sending: asyncio.Task[None] | None = None
        self._tail = b""
        self._ended = False  # nothing more is taken
        self._said_end = False

    # From this side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self is self._way.caller:
            self._way.begin()
        else:
            self._send_soon()

    def data_received(self, data: bytes) -> None:
        if self is self._way.caller:
            self._look(data)
        self.other.take(data)

    def eof_received(self) -> bool:
        self.other.take(b"")
        return True  # the other direction may go on

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._sending is not None:
            self._sending.cancel()
        if error is None:
            self.other.take(b"", closes=True)
        else:
            self.other.reset()
        if self.other._transport is None:
            self._way.ended()

    def pause_writing(self) -> None:
        self.other._pause()

    def resume_writing(self) -> None:
        self.other._resume()

    # To this side.

    def take(self, data: bytes, *, closes: bool = False) -> None:
        """data: empty for the end of what comes. closes: the other side is wholly gone."""
        if self._ended and not closes:
            return
        weather = self._way.link.weather
        if data and weather.is_clear and not self._waiting and self._transport is not None:
            self._transport.write(data)
            return
        if closes and self._ended:
            self._close()
            return
        self._waiting.append((time.monotonic() + weather.delay, data))
        self._bytes += len(data)
        self._ended |= not data
        if self._bytes > _MOST_WAITING:
            self.other._pause()
        self._send_soon()

    def say_end(self) -> None:
        self._ended = self._said_end = True
        if self._transport is not None and self._transport.can_write_eof():
            with suppress(OSError, RuntimeError):
                self._transport.write_eof()
        if self.other._said_end:  # nobody has anything more to say
            self._close()
            self.other._close()

    def reset(self) -> None:
        if self._transport is None:
            return
        with suppress(OSError):
            kind = self._transport.get_extra_info("socket")
            kind.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _send_soon(self) -> None:
        if self._transport is not None and self._waiting and (self._sending is None or self._sending.done()):
            self._sending = asyncio.ensure_future(self._send())

    async def _send(self) -> None:
        link = self._way.link
        while self._waiting:
            due, data = self._waiting[0]
            await asyncio.sleep(max(due - time.monotonic(), 0))
            await link.fine.wait()
            if link.weather.rate:
                await asyncio.sleep(len(data) / link.weather.rate)
            self._waiting.popleft()
            self._bytes -= len(data)
            if self._transport is None:
                return
            if link.weather.drops:
                self._way.has_lost = True
            elif data:
                self._transport.write(data)
            else:
                self.say_end()
                if self.other._transport is None:
                    self._close()
            if self._bytes <= _MOST_WAITING:
                self.other._resume()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _pause(self) -> None:
        if self._transport is not None:
            with suppress(RuntimeError):
                self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport is not None:
            with suppress(RuntimeError):
                self._transport.resume_reading()

    def _look(self, data: bytes) -> None:
        """For names of requests, also where a read ends in the middle of one."""
        text = self._tail + data
        for name in dict.fromkeys(_NAMES.findall(text)):
            self._way.link.seen(name.decode())
        self._tail = text[-(_NAME_BYTES - 1) :]
