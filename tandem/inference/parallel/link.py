"""Connections between the leader and its followers: how they meet, and messages with their length in front."""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import socket
import struct
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from tandem.inference.parallel.place import GroupError, Place

_log = logging.getLogger(__name__)

_LENGTH = struct.Struct("<I")
# Ids of the tokens of a step and where their sequences lie take some hundred kilobytes at most.
_MOST_BYTES = 64 << 20
_LOOPBACK = "127.0.0.1"
#: Time for one connection to say who it is, and to be made.
_HELLO_SECONDS = 5.0
_CONNECT_SECONDS = 60.0

#: What each follower has a connection for: steps, and signs of life.
PURPOSES = ("steps", "life")


class LinkError(Exception):
    """The other end is gone, or has sent what it should not."""


class Link:
    """One connection. For one thread at each end."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection

    def send(self, message: bytes) -> None:
        """Raises LinkError."""
        try:
            self.socket.sendall(_LENGTH.pack(len(message)) + message)
        except OSError as error:
            raise LinkError(str(error)) from error

    def receive(self) -> bytes:
        """Waits for a message. Raises LinkError."""
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if length > _MOST_BYTES:
            raise LinkError(f"a message of {length} bytes")
        return self._exactly(length)

    def send_facts(self, facts: Mapping[str, Any]) -> None:
        self.send(json.dumps(facts).encode())

    def receive_facts(self) -> dict[str, Any]:
        """Raises LinkError."""
        try:
            facts = json.loads(self.receive())
        except ValueError as error:
            raise LinkError("a message that is no JSON") from error
        if not isinstance(facts, dict):
            raise LinkError("a message that is no JSON object")
        return facts

    def wait_for_end(self, seconds: float) -> None:
        """Until the other end has closed, or so long."""
        self.socket.settimeout(seconds)
        try:
            while self.socket.recv(4096):
                pass
        except OSError:
            pass

    def close(self) -> None:
        self.socket.close()

    def _exactly(self, count: int) -> bytes:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            try:
                got = self.socket.recv_into(view)
            except OSError as error:
                raise LinkError(str(error)) from error
            if not got:
                raise LinkError("the connection was closed")
            view = view[got:]
        return bytes(data)


class Door:
    """Where the leader takes its followers in. Strangers cannot come: each must show the secret of `invitation`, which
    travels through torch's own rendezvous."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._secret = secrets.token_hex(32)
        if place.on_one_machine:
            self._listener = socket.create_server((_LOOPBACK, 0))
        elif socket.has_dualstack_ipv6():
            self._listener = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        else:
            self._listener = socket.create_server(("", 0))

    @property
    def invitation(self) -> str:
        return json.dumps({"port": self._listener.getsockname()[1], "secret": self._secret})

    def admit(self, seconds: float) -> dict[int, dict[str, Link]]:
        """Links of each follower by purpose. Raises GroupError for those that have not come in that time."""
        ends = time.monotonic() + seconds
        found: dict[int, dict[str, Link]] = {rank: {} for rank in range(1, self._place.world)}
        while missing := [rank for rank, links in found.items() if len(links) < len(PURPOSES)]:
            self._listener.settimeout(max(0.001, ends - time.monotonic()))
            try:
                connection, address = self._listener.accept()
            except TimeoutError:
                raise GroupError(f"rank {missing[0]} has not joined rank 0 within {seconds:g} s") from None
            try:
                rank, purpose, link = self._greeted(connection)
            except (LinkError, OSError) as error:
                _log.warning("a connection from %s is none of the group's: %s", address[0], error)
                connection.close()
                continue
            found[rank][purpose] = link
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    def _greeted(self, connection: socket.socket) -> tuple[int, str, Link]:
        connection.settimeout(_HELLO_SECONDS)
        link = Link(connection)
        hello = link.receive_facts()
        if not hmac.compare_digest(str(hello.get("secret")).encode(), self._secret.encode()):
            raise LinkError("it does not know the group's secret")
        rank, purpose = hello.get("rank"), hello.get("purpose")
        if not isinstance(rank, int) or not 0 < rank < self._place.world or purpose not in PURPOSES:
            raise LinkError(f"it calls itself rank {rank!r} with {purpose!r}")
        connection.settimeout(None)
        return rank, str(purpose), link


def knock(place: Place, invitation: str) -> dict[str, Link]:
    """The follower's ends, by purpose. Raises GroupError where rank 0 cannot be reached."""
    facts = json.loads(invitation)
    host = _LOOPBACK if place.on_one_machine else place.address
    links: dict[str, Link] = {}
    for purpose in PURPOSES:
        try:
            connection = socket.create_connection((host, facts["port"]), timeout=_CONNECT_SECONDS)
        except OSError as error:
            raise GroupError(f"rank {place.rank} cannot reach rank 0 at {host}:{facts['port']}: {error}") from error
        connection.settimeout(None)
        links[purpose] = Link(connection)
        links[purpose].send_facts({"secret": facts["secret"], "rank": place.rank, "purpose": purpose})
    return links
