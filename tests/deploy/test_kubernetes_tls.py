"""The tls component with real servers: certificates made as its Certificates say, probes run as its pods run them."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tandem.rpc.channels import connect
from tandem.rpc.server import Server
from tandem.rpc.tls import ClientTls
from tests.deploy.certificates import Authority
from tests.deploy.environment import HEALTH, placed, settings_of
from tests.deploy.manifests import ROOT, Object, Pod, composed, needs_kubectl, pods

pytestmark = needs_kubectl

#: With TLS: a Deployment of each service, and the leader of a group of hosts.
PODS: list[tuple[tuple[str, ...], str]] = [
    (("tls",), "draft"),
    (("tls",), "target"),
    (("tls",), "orchestrator"),
    (("model-cache", "tls", "multi-host"), "target"),
]


def found(components: tuple[str, ...], service: str) -> tuple[tuple[Object, ...], Pod]:
    objects = composed(*components)
    (pod,) = [pod for pod in pods(objects) if pod.service == service]
    return objects, pod


def serving(service: str, settings: Any) -> Server:
    """With the health of `service`, as it answers to probes."""
    server = Server("127.0.0.1", 0, tls=settings.server_tls())
    server.add(lambda servicer, into: None, None, HEALTH[service])
    return server


async def run(command: list[str], variables: dict[str, str], server: Server) -> tuple[int, str]:
    """A probe, in the pod's environment; only the port is the one that was free here."""
    prefix = next(name for name in variables if name.endswith("_PORT") and "METRICS" not in name and "HTTP" not in name)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables, prefix: str(server.port)}
    assert command[0] == "python"
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command[1:], env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, told = await process.communicate()
    return process.returncode or 0, told.decode()


@pytest.mark.parametrize(("components", "service"), PODS, ids=["draft", "target", "orchestrator", "group"])
async def test_probes_reach_a_service_that_asks_for_certificates_and_tell_when_it_drains(
    components: tuple[str, ...], service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, pod = found(components, service)
    authority = Authority()
    settings = settings_of(objects, pod, tmp_path, monkeypatch, authority)
    variables = placed(objects, pod, tmp_path, authority)
    commands = [pod.main[f"{kind}Probe"]["exec"]["command"] for kind in ("readiness", "startup", "liveness")]
    async with serving(service, settings) as server:
        for command in [command for at, command in enumerate(commands) if command not in commands[:at]]:
            assert await run(command, variables, server) == (0, "")
        await server._health.enter_graceful_shutdown()
        code, told = await run(commands[0], variables, server)
        assert code == 1 and "NOT_SERVING" in told


async def health(server: Server, tls: ClientTls | None, name: str) -> str:
    """SERVING, or how the connection fails."""
    channel = connect(server.address, tls, server_name=name)
    try:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    except grpc.aio.AioRpcError as error:
        return error.code().name
    finally:
        with suppress(asyncio.CancelledError):
            await channel.close()


@pytest.mark.parametrize("service", ["draft", "target"])
async def test_draft_and_target_let_in_the_orchestrator_by_the_name_that_it_calls_and_nobody_else(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority()
    objects, caller = found(("tls",), "orchestrator")
    orchestrator: Any = settings_of(objects, caller, tmp_path / "orchestrator", monkeypatch, authority)
    settings = settings_of(*found(("tls",), service), tmp_path / service, monkeypatch, authority)
    stranger = settings_of(objects, caller, tmp_path / "stranger", monkeypatch, Authority("another"))
    own, theirs = orchestrator.upstream_tls(), stranger.upstream_tls()  # type: ignore[attr-defined]
    host = getattr(orchestrator, service)[0].rsplit(":", 1)[0]
    async with serving(service, settings) as server:
        assert await health(server, own, host) == "SERVING"
        assert await health(server, own, "tandem-orchestrator") == "UNAVAILABLE"  # that is not its name
        assert await health(server, ClientTls(own.ca), host) == "UNAVAILABLE"  # shows nothing
        assert await health(server, ClientTls(own.ca, theirs.certificate, theirs.key), host) == "UNAVAILABLE"
        assert await health(server, None, host) == "UNAVAILABLE"


async def test_callers_of_the_orchestrator_need_its_authority_and_no_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: Any = settings_of(*found(("tls",), "orchestrator"), tmp_path, monkeypatch, Authority())
    ca = ClientTls(settings.upstream_ca)
    async with serving("orchestrator", settings) as server:
        for name in ("tandem-orchestrator", "tandem-orchestrator.tandem.svc"):
            assert await health(server, ca, name) == "SERVING"
