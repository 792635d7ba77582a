"""Client side of a connection: options, and several connections per endpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
KEEPALIVE_SECONDS = 20
PING_TIMEOUT_SECONDS = 5

#: Of every channel to a Tandem service.
CLIENT_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A peer that froze is noticed after both times together. `keepalive_timeout_ms` alone does not bound it:
    # the answer to a ping has a timeout of its own, a minute by default.
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_SECONDS * 1000),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Without this, channels to one endpoint share one connection.
    ("grpc.use_local_subchannel_pool", 1),
    # A replica that is back is found within seconds; the default backs off to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5000),
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


def connect(endpoint: str) -> grpc.aio.Channel:
    """A channel with a connection of its own to HOST:PORT. Connects at the first call; raises ValueError."""
    return grpc.aio.insecure_channel(check_endpoint(endpoint), options=CLIENT_OPTIONS)


class ChannelPool:
    """`size` connections to one endpoint; each stream gets the one with the fewest.

    One HTTP/2 connection would let one large message, or the peer's limit on streams, hold up all others.
    A connection that failed is tried again after a pause, and refuses calls until then: it comes last, so that a
    service that is back is served by those that have found it.
    Belongs to one event loop.
    """

    def __init__(self, endpoint: str, size: int = 4) -> None:
        if size < 1:
            raise ValueError(f"a pool needs at least one channel, not {size}")
        self.endpoint = endpoint
        self._channels = [connect(endpoint) for _ in range(size)]
        self._streams = [0] * size
        self._next = 0

    @property
    def streams(self) -> int:
        """Leases open now."""
        return sum(self._streams)

    @contextmanager
    def lease(self) -> Iterator[grpc.aio.Channel]:
        """A channel for one stream or call; it counts as busy until the block is left."""
        index = self._choose()
        self._streams[index] += 1
        try:
            yield self._channels[index]
        finally:
            self._streams[index] -= 1

    def _choose(self) -> int:
        # Ties go round, so that short calls one after another use all connections.
        size = len(self._channels)
        order = [(self._next + step) % size for step in range(size)]
        index = min(order, key=lambda index: (self._has_failed(index), self._streams[index]))
        self._next = (index + 1) % size
        return index

    def _has_failed(self, index: int) -> bool:
        return self._channels[index].get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE

    async def close(self, grace: float | None = None) -> None:
        """Closes all connections. grace: seconds that open calls may go on; None ends them at once."""
        for channel in self._channels:
            await channel.close(grace)
