"""What an orchestrator says of its replicas: health, metrics, and nothing left of them at its end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx2
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.gateway.app import make_app
from orchestrator.gateway.server import HttpServer
from orchestrator.stopping import Experiences
from tests.support.fleet import Fleet, Orchestrator, channels_of, fleet
from tests.support.trio import policy

SERVICE = "tandem.v1.CompletionService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
BLOCKS = policy("fixed", "exact", max_tokens=3)


@pytest.fixture
async def made() -> AsyncIterator[Fleet]:
    async with fleet() as running:
        yield running


async def health(orchestrator: Orchestrator, name: str) -> Any:
    check = health_pb2_grpc.HealthStub(orchestrator.channel).Check
    return (await check(health_pb2.HealthCheckRequest(service=name))).status


async def test_health_follows_the_targets_by_itself(made: Fleet) -> None:
    targets, draft = [await made.target() for _ in range(2)], await made.draft()
    for target in targets:
        await target.kill()
    orchestrator = await made.orchestrator(targets, [draft])
    assert (await health(orchestrator, ""), await health(orchestrator, SERVICE)) == (SERVING, NOT_SERVING)
    watch = health_pb2_grpc.HealthStub(orchestrator.channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert (await watch.read()).status == NOT_SERVING
    for one, other in (targets, targets[::-1]):
        await one.come_back()
        async with asyncio.timeout(20):
            assert (await watch.read()).status == SERVING
        await other.come_back()
        await orchestrator.until(*targets)
        await one.kill()
        await orchestrator.until(one, state="failed")
        assert await health(orchestrator, SERVICE) == SERVING  # there is another
        await other.kill()
        async with asyncio.timeout(20):
            assert (await watch.read()).status == NOT_SERVING
        assert await health(orchestrator, "") == SERVING
    watch.cancel()


async def test_the_http_face_says_the_same(made: Fleet) -> None:
    target, other = await made.target(), await made.target(fingerprint="another")
    orchestrator = await made.orchestrator([target, other])
    await orchestrator.until(target)
    server = HttpServer(make_app(orchestrator.completions))
    made.stack.push_async_callback(server.stop)
    server.bind()
    await server.serve()
    async with httpx2.AsyncClient(base_url=server.url, timeout=60.0) as http, asyncio.timeout(20):
        assert (await http.get("/healthz")).status_code == 200
        await target.kill()
        while (answer := await http.get("/healthz")).status_code == 200:
            await asyncio.sleep(0.05)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "target_unavailable")
        assert "1 do not answer, 1 serve what does not fit" in answer.json()["error"]["message"]
        states = [replica["state"] for replica in (await http.get("/tandem/v1/load")).json()["targets"]]
        assert states == ["REPLICA_STATE_FAILED", "REPLICA_STATE_MISMATCHED"]
        await target.come_back()
        while (await http.get("/healthz")).status_code != 200:
            await asyncio.sleep(0.05)


async def test_the_metrics_count_replicas_by_state(made: Fleet) -> None:
    targets = [await made.target(), await made.target(), await made.target(fingerprint="another")]
    draft = await made.draft()
    orchestrator = await made.orchestrator(targets, [draft, "127.0.0.1:1"])
    await orchestrator.until(targets[0], targets[1], draft)
    await orchestrator.until(targets[2], state="mismatched")
    await targets[1].kill()
    await orchestrator.until(targets[1], state="failed")
    found = {}
    for family in text_string_to_metric_families(orchestrator.completions.telemetry.exposition().decode()):
        if family.name == "tandem_upstream_replicas":
            for sample in family.samples:
                found[sample.labels["service"], sample.labels["state"]] = sample.value
    assert found == {
        ("target", "ready"): 1, ("target", "failed"): 1, ("target", "mismatched"): 1,
        ("draft", "ready"): 1, ("draft", "failed"): 1, ("draft", "mismatched"): 0,
    }  # fmt: skip


async def test_nothing_is_left_at_the_end() -> None:
    async with fleet() as made:
        targets, drafts = [await made.target() for _ in range(2)], [await made.draft() for _ in range(2)]
        before = asyncio.all_tasks()
        async with fleet() as inner:
            everything = [*targets, "127.0.0.1:1", f"localhost:{targets[0].server.port}", "nowhere.invalid:7002"]
            orchestrator = await inner.orchestrator(everything, drafts, lookup=_lookup, resolve_seconds=0.05)
            await orchestrator.until(*targets, *drafts)
            await asyncio.gather(*(orchestrator.complete(policy=BLOCKS) for _ in range(8)))
            running = await orchestrator.begin(speculation=BLOCKS)
            groups = orchestrator.upstream._targets, orchestrator.upstream._drafts
            pools = [replica.pool for group in groups for replica in group.replicas]
            channels = set().union(*map(channels_of, pools))
            assert (len(pools), len(channels)) == (5, 20)
            running.cancel()
        assert {channel.get_state() for channel in channels} == {grpc.ChannelConnectivity.SHUTDOWN}
        assert all(pool.streams == 0 for pool in pools)
        assert [task for task in asyncio.all_tasks() - before if "/orchestrator/" in _file(task)] == []
        async with asyncio.timeout(20):
            while any(service.engine.load().sequences for service in (*targets, *drafts)):
                await asyncio.sleep(0.01)


def _file(task: asyncio.Task[Any]) -> str:
    """Where its work is written; empty for gRPC's own, which end by themselves."""
    code = getattr(task.get_coro(), "cr_code", None)
    return code.co_filename if code is not None else ""


async def _lookup(host: str) -> list[str]:
    if host == "localhost":
        return ["127.0.0.1"]
    raise OSError("no such name")


class _Place:
    """As a key."""


def test_what_is_learnt_at_a_target_goes_with_it() -> None:
    learnt, one, other = Experiences(), _Place(), _Place()
    found = learnt.of(one, "a", "d")
    assert learnt.of(one, "a", "d").costs is found.costs is learnt.of(one, "a", "e").costs
    assert found.costs is not learnt.of(other, "a", "d").costs is not learnt.of(other, "b", "d").costs
    found.curve("key")
    assert learnt.of(other, "a", "d").curves is found.curves  # of the models, wherever they run
    assert learnt.of(one, "a", "e").curves is not found.curves
    del one
    gc.collect()
    assert len(learnt._costs) == 1
