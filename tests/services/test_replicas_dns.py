"""Replicas by name: those that a name gains are used, those that it loses finish what they have begun."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence

import grpc
import pytest

from orchestrator.replicas import Address, plain
from orchestrator.replicas.fit import OneModel
from orchestrator.replicas.group import Group
from orchestrator.replicas.service import TARGET
from orchestrator.replicas.service import Service as ServiceKind
from tandem.rpc.channels import ChannelPool
from tests.support.fleet import Fleet, Orchestrator, Service, channels_of, fleet, rest_of

QUICK = 0.05


class Names:
    """A resolver whose answers are set; None is no answer."""

    def __init__(self, **addresses: Sequence[str] | None) -> None:
        self.addresses = {name.replace("_", "."): found for name, found in addresses.items()}
        self.asked = 0

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked += 1
        found = self.addresses.get(host)
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found

    async def until_asked_again(self) -> None:
        """And what was answered has been acted on."""
        enough = self.asked + 2 * max(1, len(self.addresses)) + 1
        async with asyncio.timeout(20):
            while self.asked < enough:
                await asyncio.sleep(0.01)


@pytest.fixture
async def made() -> AsyncIterator[Fleet]:
    async with fleet() as running:
        yield running


def port(service: Service) -> int:
    return service.server.port


async def both_used(orchestrator: Orchestrator, services: Sequence[Service]) -> None:
    before = [service.streams for service in services]
    async with asyncio.timeout(20):
        while any(service.streams == count for service, count in zip(services, before, strict=True)):
            await orchestrator.complete()


async def test_a_name_that_gains_and_loses_addresses(made: Fleet) -> None:
    one, two = await made.targets_at("127.0.0.1", "127.0.0.2")
    names = Names(target_example=["127.0.0.1"])
    orchestrator = await made.orchestrator(
        [f"target.example:{port(one)}"], lookup=names, resolve_seconds=QUICK
    )
    await orchestrator.complete()
    assert (one.streams, two.streams) == (1, 0)
    names.addresses["target.example"] = ["127.0.0.2", "127.0.0.1"]
    await orchestrator.until(one, two)
    await both_used(orchestrator, [one, two])
    # The one that leaves has a stream, which goes on to its end.
    call = await orchestrator.begin(max_tokens=2000)
    leaving, staying = (one, two) if one.engine.load().sequences else (two, one)
    names.addresses["target.example"] = [staying.server.host]
    await names.until_asked_again()
    assert list(await orchestrator.states()) == [staying.address]
    before = leaving.streams
    for _ in range(8):
        await orchestrator.complete()
    assert leaving.streams == before
    assert 1 + sum(len(response.token_ids) for response in await rest_of(call)) == 2000
    # And comes again.
    names.addresses["target.example"] = [leaving.server.host, staying.server.host]
    await orchestrator.until(one, two)
    await both_used(orchestrator, [one, two])


async def test_an_answer_that_fails_changes_nothing(made: Fleet) -> None:
    target, draft = await made.target(), await made.draft()
    names = Names(target_example=["127.0.0.1"], draft_example=["127.0.0.1"])
    orchestrator = await made.orchestrator(
        [f"target.example:{port(target)}"], [f"draft.example:{port(draft)}"], lookup=names, resolve_seconds=QUICK
    )
    await orchestrator.until(target, draft)
    for nothing in (None, []):
        names.addresses = dict.fromkeys(names.addresses, nothing)
        await names.until_asked_again()
        assert set((await orchestrator.states()).values()) == {"ready"}
        assert len((await orchestrator.complete()).token_ids) == 8


async def test_a_name_that_is_not_there_yet_is_waited_for_and_named(made: Fleet) -> None:
    target = await made.target()
    names, endpoint = Names(), f"target.example:{port(target)}"
    orchestrator = await made.orchestrator([endpoint], lookup=names, connect_timeout_seconds=0.5)
    error = await orchestrator.refusal()
    assert error.reason == "TARGET_UNAVAILABLE" and error.retry_after is not None
    assert endpoint in error.message and "Name or service not known" in error.message
    patient = await made.orchestrator([endpoint], lookup=names, connect_timeout_seconds=20)
    waiting = asyncio.create_task(patient.complete())
    await names.until_asked_again()
    names.addresses["target.example"] = ["127.0.0.1"]
    assert len((await waiting).token_ids) == 8


async def test_several_endpoints_that_lead_to_one_address_are_one_replica(made: Fleet) -> None:
    target = await made.target()
    names = Names(a_example=["127.0.0.1", "127.0.0.1"], b_example=["127.0.0.1"])
    endpoints = [f"{host}:{port(target)}" for host in ("a.example", "b.example", "127.0.0.1")]
    orchestrator = await made.orchestrator(endpoints, lookup=names)
    await orchestrator.until(target)
    assert await orchestrator.states() == {target.address: "ready"}


async def test_both_families_by_one_name(made: Fleet) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 on loopback")
    four, six = await made.targets_at("127.0.0.1", "::1")
    names = Names(target_example=["127.0.0.1", "::1"])
    orchestrator = await made.orchestrator([f"target.example:{port(four)}"], lookup=names)
    await orchestrator.until(four, six)
    assert six.address == f"[::1]:{port(six)}"
    await both_used(orchestrator, [four, six])


async def test_localhost_is_found_by_the_system(made: Fleet) -> None:
    target = await made.target()
    orchestrator = await made.orchestrator([f"localhost:{port(target)}"])
    await orchestrator.until(target)
    assert len((await orchestrator.complete()).token_ids) == 8


async def test_connections_are_closed_after_the_last_stream_of_one_that_left() -> None:
    """The pools are real; nobody listens."""
    names, pools = Names(target_example=["127.0.0.1", "127.0.0.2"]), dict[str, ChannelPool]()
    channels: dict[ChannelPool, set[grpc.aio.Channel]] = {}

    def connect(service: ServiceKind, address: Address) -> ChannelPool:
        assert (service, address.server_name) == (TARGET, "target.example")
        pools[address.endpoint] = pool = plain(service, address)
        channels[pool] = channels_of(pool)
        return pool

    def is_closed(pool: ChannelPool) -> bool:
        return all(channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN for channel in channels[pool])

    group = Group(
        TARGET, ["target.example:1"], OneModel(), timeout=1, resolve_seconds=QUICK, lookup=names, connect=connect
    )
    await names.until_asked_again()
    one, two = (pools[f"127.0.0.{number}:1"] for number in (1, 2))
    leaving = next(replica for replica in group.replicas if replica.pool is one)
    leaving.streams += 1
    names.addresses["target.example"] = ["127.0.0.2"]
    await names.until_asked_again()
    assert leaving not in group.replicas and not is_closed(one)
    leaving.streams -= 1
    async with asyncio.timeout(20):
        while not is_closed(one):
            await asyncio.sleep(0.01)
    assert not is_closed(two)
    await group.close()
    assert is_closed(two)
