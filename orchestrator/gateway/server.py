"""One uvicorn server in the running event loop, and the two faces of the orchestrator as one server."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from orchestrator.gateway.connection import Gate
from orchestrator.gateway.tls import server_context
from tandem.rpc.server import ListenError, PortTakenError, Server, check_listen
from tandem.rpc.tls import ServerTls

_log = logging.getLogger(__name__)

# Longer than clients keep unused connections, so that none is closed just when a request is sent on it.
_KEEP_ALIVE_SECONDS = 75
# For the last words of what is ended, after which connections are cut.
_LAST_SECONDS = 1.5


class _Uvicorn(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the whole service's matter."""
        yield


class HttpServer:
    """Builds, starts and drains one HTTP server. The app's `state.gate` ends what is left.

    port: 0 takes a free one; `self.port` has the bound one after `bind`. grace_seconds: how long open requests may go
    on after a drain has begun. tls: None serves without. Raises TlsError.
    """

    def __init__(
        self,
        app: FastAPI,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        grace_seconds: float = 10.0,
        tls: ServerTls | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.grace_seconds = grace_seconds
        self._gate: Gate = app.state.gate
        config = uvicorn.Config(
            app, http="h11", ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
            proxy_headers=False, timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        )  # fmt: skip
        config.load()
        config.ssl = None if tls is None else server_context(tls)
        self._scheme = "http" if tls is None else "https"
        self._server = _Uvicorn(config)
        self._sockets: list[socket.socket] = []
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self._scheme}://{host}:{self.port}"

    def bind(self) -> None:
        """Takes the port. Raises ListenError."""
        try:
            check_listen(self.host, self.port)
            self._bind()
        except PortTakenError as error:
            raise self._taken() from error
        except ListenError as error:
            raise ListenError(str(error).replace("--port", "--http-port")) from error
        except OSError as error:  # taken since it was checked
            raise self._taken() from error

    def _bind(self) -> None:
        """On every address of the host, all with one port."""
        kind, flags = socket.SOCK_STREAM, socket.AI_PASSIVE
        for family, *_, address in socket.getaddrinfo(self.host, self.port, type=kind, flags=flags):
            bound = socket.socket(family, kind)
            self._sockets.append(bound)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind((address[0], self.port, *address[2:]))
            self.port = bound.getsockname()[1]

    def _taken(self) -> PortTakenError:
        advice = "choose another with --http-port (0 takes a free one, none serves no HTTP)"
        return PortTakenError(f"port {self.port} on {self.host} is taken; {advice}")

    async def serve(self) -> None:
        """Listens on what was bound, and returns once it does."""
        self._serving = asyncio.create_task(self._server.serve(sockets=self._sockets))
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(0.001)
        if self._serving.done():
            self._serving.result()
        _log.info("listening on %s", self.url)

    async def drain(self) -> None:
        """Takes no new requests, gives open ones `grace_seconds`, then ends them."""
        self._gate.drain()
        await self._stop(self.grace_seconds)

    async def stop(self) -> None:
        """Ends open requests, with a last word to their callers. May be called at any time, also twice."""
        self._gate.shut()
        await self._stop(0)
        for each in self._sockets:
            each.close()

    async def _stop(self, grace_seconds: float) -> None:
        if self._serving is None:
            return
        self._server.should_exit = True
        if await self._ends_within(grace_seconds):
            return
        self._gate.shut()
        if not await self._ends_within(_LAST_SECONDS):
            # Whoever does not read what it is sent, or does not send what it began.
            for connection in list(self._server.server_state.connections):
                connection.transport.abort()
        await self._serving

    async def _ends_within(self, seconds: float) -> bool:
        assert self._serving is not None
        return bool((await asyncio.wait({self._serving}, timeout=seconds))[0])


class BothServers(Server):
    """gRPC and HTTP, started, drained and stopped together. http: None for gRPC alone."""

    def __init__(self, host: str, port: int, *, http: HttpServer | None, **options: Any) -> None:
        """options: of `Server`."""
        super().__init__(host, port, **options)
        self._http = http

    async def start(self) -> int:
        if self._http is None:
            return await super().start()
        self._http.bind()
        port = await super().start()
        await self._http.serve()
        return port

    async def drain(self) -> None:
        await asyncio.gather(super().drain(), *([self._http.drain()] if self._http is not None else []))

    async def _stop(self, grace: float | None) -> None:
        if grace is None and self._http is not None:
            await self._http.stop()
        await super()._stop(grace)
