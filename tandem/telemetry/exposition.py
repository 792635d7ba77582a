"""GET /metrics on a port of its own, on threads of its own: it answers also while a model loads or a loop is busy."""

from __future__ import annotations

import asyncio
import logging
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tandem.rpc.server import ListenError, PortTakenError, check_listen
from tandem.telemetry.metric import EXPOSITION_TYPE, Metrics

_log = logging.getLogger(__name__)

_PATH = "/metrics"
# Between two looks at whether to end.
_LOOK_SECONDS = 0.2
# For a request, and for its reader.
_PATIENCE_SECONDS = 10


class MetricsServer:
    """Serves one service's metrics by HTTP. port: 0 takes a free one; `self.port` has the bound one after `start`."""

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._metrics = metrics
        self._servers: list[_Server] = []

    def start(self) -> None:
        """Listens on every address of the host. Raises ListenError."""
        try:
            check_listen(self.host, self.port)
            self._bind()
        except PortTakenError as error:
            raise self._taken() from error
        except ListenError as error:
            raise ListenError(str(error).replace("--port", "--metrics-port")) from error
        except OSError as error:  # taken since it was checked
            self._close()
            raise self._taken() from error
        for server in self._servers:
            threading.Thread(
                target=server.serve_forever, args=(_LOOK_SECONDS,), name="tandem-metrics", daemon=True
            ).start()
        host = f"[{self.host}]" if ":" in self.host else self.host
        _log.info("metrics on http://%s:%d%s", host, self.port, _PATH)

    def _bind(self) -> None:
        kind, flags = socket.SOCK_STREAM, socket.AI_PASSIVE
        for family, *_, address in socket.getaddrinfo(self.host, self.port, type=kind, flags=flags):
            server = _Server(family, (address[0], self.port, *address[2:]), self._metrics)
            self._servers.append(server)
            self.port = server.socket.getsockname()[1]

    def _taken(self) -> PortTakenError:
        advice = "choose another with --metrics-port (0 takes a free one, none serves none)"
        return PortTakenError(f"port {self.port} on {self.host} is taken; {advice}")

    async def close(self) -> None:
        """May be called again."""
        servers, self._servers = self._servers, []
        for server in servers:
            await asyncio.to_thread(server.shutdown)
            server.server_close()

    def _close(self) -> None:
        """Those that have not been started."""
        for server in self._servers:
            server.server_close()
        self._servers = []


class _Server(ThreadingHTTPServer):
    def __init__(self, family: int, address: Any, metrics: Metrics) -> None:
        self.address_family = socket.AddressFamily(family)
        self.metrics = metrics
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Not HTTPServer's own, which asks the name service who the host is, for as long as that takes.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("a reader of the metrics has left", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = _PATIENCE_SECONDS
    server: _Server

    def do_GET(self) -> None:  # noqa: N802 (name given by http.server)
        if self.path.partition("?")[0] != _PATH:
            self.send_error(404)
            return
        # Always the plain format: in OpenMetrics' a gauge and a counter cannot share a name (tandem_sessions).
        body = self.server.metrics.exposition()
        self.send_response(200)
        self.send_header("content-type", EXPOSITION_TYPE)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """A line for every scrape is nobody's wish."""
