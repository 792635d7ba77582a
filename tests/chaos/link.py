"""One link of the test's network: a port that leads to a service, and what is wrong with the way there."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.way import Way

#: Told of the names of requests that pass towards the service, once each per connection.
Seen = Callable[[str], None]


@dataclass(slots=True)
class Weather:
    """What is wrong. delay: seconds, each way. rate: bytes a second, each way; 0 is no bound. stalls: nothing passes,
    nothing is lost. drops: what is sent is lost, and with it every connection that lost something. refuses: no new
    connections."""

    delay: float = 0.0
    rate: float = 0.0
    stalls: bool = False
    drops: bool = False
    refuses: bool = False

    @property
    def is_clear(self) -> bool:
        return not (self.delay or self.rate or self.stalls or self.drops)


class Link:
    """Listens on `port`, which stays its own from `open` to `close`; leads to `service`, None while nobody is there."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.service: int | None = None
        self.weather = Weather()
        self.fine = asyncio.Event()  # nothing stalls
        self.fine.set()
        self.ways: set[Way] = set()
        self._server: asyncio.Server | None = None
        # Bound and never listening: the port stays taken, and refuses, while nothing listens.
        self._holder = _bound(0)
        self.port: int = self._holder.getsockname()[1]

    async def lead_to(self, service: int | None) -> None:
        self.service = service
        await self._listen()

    async def change(self, weather: Weather) -> None:
        was, self.weather = self.weather, weather
        if was.drops and not weather.drops:  # what was lost never comes: TCP ends such a connection in the end
            for way in [way for way in self.ways if way.has_lost]:
                way.reset()
        if weather.stalls:
            self.fine.clear()
        else:
            self.fine.set()
        await self._listen()

    def cut(self) -> None:
        """Ends every connection by a reset."""
        for way in list(self.ways):
            way.reset()

    def half_close(self) -> None:
        """Ends one direction of every connection: the caller is told that nothing more comes."""
        for way in list(self.ways):
            way.half_close()

    async def close(self) -> None:
        self.service = None
        await self._listen()
        self.cut()
        self._holder.close()

    async def _listen(self) -> None:
        """Where there is somebody and nothing against it."""
        listens = self.service is not None and not self.weather.refuses
        if listens and self._server is None:
            listener = _bound(self.port)
            self._server = await asyncio.get_running_loop().create_server(lambda: Way(self).caller, sock=listener)
        elif not listens and self._server is not None:
            self._server.close()
            self._server = None


def _bound(port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(("127.0.0.1", port))
    return found
