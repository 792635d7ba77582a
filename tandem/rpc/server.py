"""One gRPC server as each of the three services runs it: health, reflection, rich errors, orderly drain."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tandem import heap
from tandem.rpc.channels import KEEPALIVE_SECONDS, MAX_MESSAGE_BYTES, PING_TIMEOUT_SECONDS
from tandem.rpc.credentials import server_credentials
from tandem.rpc.draining import AT_THE_END, DrainInterceptor, HandOver, OpenCalls
from tandem.rpc.interceptor import ErrorInterceptor
from tandem.rpc.limits import MAX_STREAMS, CallLimit, LimitInterceptor
from tandem.rpc.patience import OPENING_SECONDS, READING_SECONDS
from tandem.rpc.tls import ServerTls

_log = logging.getLogger(__name__)

_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # With SO_REUSEPORT a second service on a taken port would start and get half of the connections.
    ("grpc.so_reuseport", 0),
    # A caller's machine that vanished without closing its connections is noticed, and its caches are freed.
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Callers ping at KEEPALIVE_SECONDS; half of it leaves room for jitter before a ping counts as abuse.
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_SECONDS * 500),
)
# Of one connection, beyond the calls that are counted and refused with a reason: those whose request never comes.
_MOST_HALF_OPEN = 64

# For last words to be sent.
_LEAST_GRACE_SECONDS = 0.5

_STATUSES = {True: health_pb2.HealthCheckResponse.SERVING, False: health_pb2.HealthCheckResponse.NOT_SERVING}


class ListenError(Exception):
    """The server cannot listen where it was told to; the message is one line that says what to do."""


class PortTakenError(ListenError):
    """Another process listens on the port."""


class Server:
    """Builds, starts and drains one grpc.aio server.

    host: name or address to listen on. port: 0 takes a free one; `self.port` has the bound one after `start`.
    grace_seconds: how long open RPCs may go on after a drain has begun; 0 ends them at once. hand_over: when in that
    time they are ended, with SHUTTING_DOWN. tls: None serves without.
    max_message_bytes: gRPC refuses larger ones itself, with RESOURCE_EXHAUSTED and both sizes. max_streams: RPCs that
    may be open at once, questions for health not counted. observers: interceptors that see the status that a call ends
    with. interceptors: the first sees a call first; what they raise is sent as any other error. opening_seconds: for
    the first message of a stream; reading_seconds: for which a peer may leave unread what it is sent.

        server = Server(host="127.0.0.1", port=0, grace_seconds=10)
        server.add(draft_pb2_grpc.add_DraftServiceServicer_to_server, servicer, "tandem.v1.DraftService")
        await server.serve_forever()      # in a service's __main__
        async with server: ...            # in a test
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        grace_seconds: float = 10.0,
        hand_over: HandOver = AT_THE_END,
        tls: ServerTls | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_streams: int = MAX_STREAMS,
        observers: Sequence[grpc.aio.ServerInterceptor] = (),
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        opening_seconds: float = OPENING_SECONDS,
        reading_seconds: float = READING_SECONDS,
    ) -> None:
        self.host = host
        self.port = port
        self.grace_seconds = grace_seconds
        self._hand_over = hand_over
        self._calls = OpenCalls()
        self._tls = tls
        self._max_message_bytes = max_message_bytes
        self._max_streams = max_streams
        self._interceptors = [
            *observers,
            DrainInterceptor(self._calls),
            ErrorInterceptor(opening_seconds=opening_seconds, reading_seconds=reading_seconds),
            *interceptors,
            LimitInterceptor(CallLimit(max_streams)),
        ]
        self._services: list[tuple[Callable[[Any, grpc.aio.Server], None], Any, str]] = []
        self._serving: dict[str, bool] = {}
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        """HOST:PORT to connect to."""
        return _join(self.host, self.port)

    def add(
        self,
        register: Callable[[Any, grpc.aio.Server], None],
        servicer: Any,
        service_name: str,
        *,
        serving: bool = True,
    ) -> None:
        """Adds a service. register: its generated `add_*Servicer_to_server`; service_name: with package; serving: its
        health from the start on, see `set_serving`."""
        self._services.append((register, servicer, service_name))
        self._serving[service_name] = serving

    async def set_serving(self, service_name: str, serving: bool) -> None:
        """Sets the health of a service. Once a drain has begun, none is serving any more."""
        self._serving[service_name] = serving
        await self._health.set(service_name, _STATUSES[serving])

    async def start(self) -> int:
        """Listens and serves; returns the bound port. Raises ListenError, or TlsError."""
        check_listen(self.host, self.port)
        self._health = health.aio.HealthServicer()  # one that was drained says so for ever
        self._calls.open()
        options = (
            *_OPTIONS,
            ("grpc.max_receive_message_length", self._max_message_bytes),
            ("grpc.max_concurrent_streams", 2 * self._max_streams + _MOST_HALF_OPEN),
        )
        server = grpc.aio.server(interceptors=self._interceptors, options=options)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = [health.SERVICE_NAME, reflection.SERVICE_NAME]
        for register, servicer, name in self._services:
            register(servicer, server)
            names.append(name)
            await self._health.set(name, _STATUSES[self._serving[name]])
        reflection.enable_server_reflection(names, server)
        try:
            if self._tls is None:
                self.port = server.add_insecure_port(self.address)
            else:
                self.port = server.add_secure_port(self.address, server_credentials(self._tls))
        except RuntimeError as error:  # taken since it was checked
            raise _port_taken(self.host, self.port) from error
        await server.start()
        self._server = server
        _log.info("listening on %s%s", self.address, "" if self._tls is None else f" with {_describe(self._tls)}")
        return self.port

    async def drain(self) -> None:
        """Reports NOT_SERVING, takes no new RPCs, gives open ones `grace_seconds` at most, and ends them with
        SHUTTING_DOWN."""
        await self._health.enter_graceful_shutdown()
        ends = time.monotonic() + self.grace_seconds
        await self._calls.close(self.grace_seconds)
        left = max(0.0, ends - time.monotonic())
        ending = asyncio.create_task(self._calls.hand_over(left, self._hand_over))
        try:
            # A call whose caller does not read what it is told is cut off.
            await self._stop(max(left, _LEAST_GRACE_SECONDS))
        finally:
            ending.cancel()

    async def serve_forever(self, *, on_started: Callable[[int], None] | None = None) -> None:
        """Starts, serves until SIGTERM or SIGINT, drains and returns. A second signal ends the drain at once.

        on_started: called with the bound port.
        """
        signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signals.put_nowait, number)
        try:
            heap.settle()
            port = await self.start()
            if on_started is not None:
                on_started(port)
            received = await signals.get()
            _log.info(
                "%s: draining for at most %g s; again to stop at once", received.name, self.grace_seconds
            )
            drained, again = asyncio.ensure_future(self.drain()), asyncio.ensure_future(signals.get())
            await asyncio.wait({drained, again}, return_when=asyncio.FIRST_COMPLETED)
            again.cancel()
            await self._stop(None)
            await drained
            _log.info("stopped")
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            await self._stop(None)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop(None)

    async def _stop(self, grace: float | None) -> None:
        if self._server is not None:
            await self._server.stop(grace)


def check_listen(host: str, port: int) -> None:
    """Raises ListenError saying why a port cannot be had; grpc itself tells no reason apart and prints to stderr."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"cannot listen on {host!r}: no such host; choose another with --host") from error
    for family, kind, protocol, _, address in addresses:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except PermissionError as error:
                raise ListenError(
                    f"port {port} needs privileges; choose one from 1024 with --port"
                ) from error
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise _port_taken(host, port) from error
                reason = error.strerror or error
                message = f"cannot listen on {host!r}: {reason}; choose another with --host"
                raise ListenError(message) from error


def _port_taken(host: str, port: int) -> PortTakenError:
    return PortTakenError(f"port {port} on {host} is taken; choose another with --port (0 takes a free one)")


def _describe(tls: ServerTls) -> str:
    return "TLS" if tls.client_ca is None else "mutual TLS"


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
