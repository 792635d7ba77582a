"""Names become addresses, and replicas follow them."""

from __future__ import annotations

import socket

import pytest

from orchestrator.replicas import Address, system_lookup
from orchestrator.replicas.resolve import resolve, split


async def nobody(host: str) -> list[str]:
    raise AssertionError(f"{host} needs no look-up")


@pytest.mark.parametrize("endpoint", ["127.0.0.1:7002", "[::1]:7002", "[fe80::1%eth0]:7002"])
async def test_an_address_is_taken_as_it_is(endpoint: str) -> None:
    (found,) = await resolve(endpoint, nobody)
    assert found == Address(endpoint, split(endpoint)[0])


async def test_every_address_of_a_name_is_a_replica_and_keeps_the_name() -> None:
    async def lookup(host: str) -> list[str]:
        assert host == "target.example"
        return ["10.0.0.1", "fd00::1", "10.0.0.2", "10.0.0.1"]

    found = await resolve("target.example:7002", lookup)
    assert [address.endpoint for address in found] == ["10.0.0.1:7002", "[fd00::1]:7002", "10.0.0.2:7002"]
    assert {address.server_name for address in found} == {"target.example"}


async def test_the_system_knows_localhost() -> None:
    expected = {str(address[0]) for *_, address in socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)}
    assert expected & {"127.0.0.1", "::1"}
    assert set(await system_lookup("localhost")) == expected
    found = await resolve("localhost:7002")
    assert {split(address.endpoint)[0] for address in found} == expected


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "x" * 300 + ".invalid"])
async def test_a_name_without_an_address_is_an_error_of_the_system(host: str) -> None:
    with pytest.raises(OSError):
        await resolve(f"{host}:7002")


async def test_no_addresses_are_no_answer() -> None:
    async def lookup(host: str) -> list[str]:
        return []

    with pytest.raises(OSError, match=r"empty\.example"):
        await resolve("empty.example:7002", lookup)
