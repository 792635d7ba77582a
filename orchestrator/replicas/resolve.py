"""From HOST:PORT to the addresses behind it: a name may stand for several replicas, and for others later."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

#: Addresses of a host, IPv4 and IPv6, without brackets. Raises OSError where it knows none.
Lookup: TypeAlias = Callable[[str], Awaitable[Sequence[str]]]

# A resolver that has said nothing by then has not answered.
_LOOKUP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where one replica listens. endpoint: ADDRESS:PORT to connect to. server_name: HOST as it was configured, which is
    what a certificate has to be made out to."""

    endpoint: str
    server_name: str


async def system_lookup(host: str) -> list[str]:
    """By the system's resolver, in a thread. Raises OSError."""
    async with asyncio.timeout(_LOOKUP_SECONDS):
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


async def resolve(endpoint: str, lookup: Lookup = system_lookup) -> tuple[Address, ...]:
    """Every address of HOST:PORT, each once; of an address itself. Raises OSError where there is none."""
    host, port = split(endpoint)
    if is_address(host):
        return (Address(endpoint, host),)
    try:
        found = await lookup(host)
    except UnicodeError as error:  # what no name can be
        raise OSError(f"{host!r} is no name of a host") from error
    if not found:
        raise OSError(f"no address is known for {host!r}")
    return tuple(Address(_join(address, port), host) for address in dict.fromkeys(found))


def split(endpoint: str) -> tuple[str, str]:
    """Host, without the brackets of an IPv6 address, and port."""
    host, _, port = endpoint.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), port


def is_address(host: str) -> bool:
    """Whether there is nothing to resolve."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _join(address: str, port: str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
