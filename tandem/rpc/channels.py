"""Client side of a connection: options, TLS, and several connections per endpoint."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import grpc

from tandem.rpc.credentials import channel_credentials, watched_channel_credentials
from tandem.rpc.tls import ClientTls

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
KEEPALIVE_SECONDS = 20
PING_TIMEOUT_SECONDS = 5

#: Of every channel to a Tandem service.
CLIENT_OPTIONS = (
    # What a service takes is its own matter (--max-message-bytes); it says so itself where a message is too large.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A peer that froze is noticed after both times together. `keepalive_timeout_ms` alone does not bound it:
    # the answer to a ping has a timeout of its own, a minute by default.
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_SECONDS * 1000),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    # What is tried again is tried again by who knows what it is: retries on top of retries would multiply load.
    ("grpc.enable_retries", 0),
    # Without this, channels to one endpoint share one connection.
    ("grpc.use_local_subchannel_pool", 1),
    # A replica that is back is found within a second; the default backs off to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Services speak to each other directly, whatever proxy the environment has for the web.
    ("grpc.enable_http_proxy", 0),
)

_ENDPOINT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")


def check_endpoint(endpoint: str) -> str:
    """Returns `endpoint` where it reads HOST:PORT ([ADDRESS]:PORT for IPv6); raises ValueError."""
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise ValueError(f"{endpoint!r} is not an endpoint; write HOST:PORT, as 127.0.0.1:7001")
    return endpoint


Interceptors: TypeAlias = Sequence[grpc.aio.ClientInterceptor]


def connect(endpoint: str, tls: ClientTls | None = None, *, server_name: str | None = None) -> grpc.aio.Channel:
    """A channel with a connection of its own to HOST:PORT. Connects at the first call.

    tls: None for a plain connection. server_name: what the server's certificate must hold, where it is not HOST: an
    address that a name was resolved to. Raises ValueError (TlsError for `tls`).
    """
    return open_channel(check_endpoint(endpoint), None if tls is None else channel_credentials(tls), server_name)


def connect_blocking(endpoint: str, tls: ClientTls | None = None) -> grpc.Channel:
    """The same for calls that block."""
    check_endpoint(endpoint)
    if tls is None:
        return grpc.insecure_channel(endpoint, options=CLIENT_OPTIONS)
    return grpc.secure_channel(endpoint, channel_credentials(tls), options=CLIENT_OPTIONS)


def open_channel(
    endpoint: str,
    credentials: grpc.ChannelCredentials | None,
    server_name: str | None = None,
    interceptors: Interceptors = (),
) -> grpc.aio.Channel:
    """`connect` for who has credentials already, and has checked the endpoint. interceptors: of all calls."""
    if credentials is None:
        return grpc.aio.insecure_channel(endpoint, options=CLIENT_OPTIONS, interceptors=interceptors)
    named = () if server_name is None else (("grpc.ssl_target_name_override", server_name),)
    options = (*CLIENT_OPTIONS, *named)
    return grpc.aio.secure_channel(endpoint, credentials, options=options, interceptors=interceptors)


class _Connection:
    """A channel and how many leases it has."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.streams = 0

    @property
    def has_failed(self) -> bool:
        return self.channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE


class ChannelPool:
    """`size` connections to one endpoint; each stream gets the one with the fewest.

    One HTTP/2 connection would let one large message, or the peer's limit on streams, hold up all others.
    A connection that failed is tried again after a pause, and refuses calls until then: it comes last, so that a
    service that is back is served by those that have found it.
    Once the files of `tls` have changed, new streams get new connections; old ones close with their last stream.
    Belongs to one event loop.
    """

    def __init__(
        self,
        endpoint: str,
        size: int = 4,
        *,
        interceptors: Interceptors = (),
        tls: ClientTls | None = None,
        server_name: str | None = None,
    ) -> None:
        """interceptors: of all calls. tls, server_name: as of `connect`. Raises ValueError."""
        if size < 1:
            raise ValueError(f"a pool needs at least one channel, not {size}")
        self.endpoint = check_endpoint(endpoint)
        self._size = size
        self._interceptors = interceptors
        self._server_name = server_name
        self._watched = None if tls is None else watched_channel_credentials(tls)
        self._used = None if self._watched is None else self._watched.get()
        self._connections = self._connect()
        self._old: list[_Connection] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._next = 0

    @property
    def streams(self) -> int:
        """Leases open now."""
        return sum(connection.streams for connection in (*self._connections, *self._old))

    @contextmanager
    def lease(self) -> Iterator[grpc.aio.Channel]:
        """A channel for one stream or call; it counts as busy until the block is left."""
        self._renew()
        connection = self._choose()
        connection.streams += 1
        try:
            yield connection.channel
        finally:
            connection.streams -= 1
            self._close_idle()

    def _connect(self) -> list[_Connection]:
        opened = (self.endpoint, self._used, self._server_name, self._interceptors)
        return [_Connection(open_channel(*opened)) for _ in range(self._size)]

    def _renew(self) -> None:
        """Looks whether there are new files."""
        if self._watched is None or (found := self._watched.get()) is self._used:
            return
        self._used = found
        self._old += self._connections  # which take no more streams
        self._connections = self._connect()
        self._close_idle()

    def _close_idle(self) -> None:
        """Old connections without streams."""
        for connection in [each for each in self._old if not each.streams]:
            self._old.remove(connection)
            closing = asyncio.ensure_future(connection.channel.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _choose(self) -> _Connection:
        # Ties go round, so that short calls one after another use all connections.
        order = [(self._next + step) % self._size for step in range(self._size)]
        connections = self._connections
        index = min(order, key=lambda index: (connections[index].has_failed, connections[index].streams))
        self._next = (index + 1) % self._size
        return connections[index]

    async def close(self, grace: float | None = None) -> None:
        """Closes all connections. grace: seconds that open calls may go on; None ends them at once."""
        for connection in (*self._connections, *self._old):
            await connection.channel.close(grace)
        await asyncio.gather(*self._closing)
