"""`python -m tandem.probe` as HEALTHCHECK and exec probes run it: with the variables of the service."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from draft_service.settings import DraftSettings
from orchestrator.settings import OrchestratorSettings
from tandem.probe import PORTS
from tandem.rpc.server import Server
from tandem.rpc.tls import ServerTls
from target_service.settings import TargetSettings
from tests.cli.processes import run
from tests.security.certificates import Authority, replace
from tests.security.conftest import echo_server


async def probe(server: Server | int, *flags: str, **variables: object) -> subprocess.CompletedProcess[str]:
    """Of a target. variables: without their prefix, in small letters."""
    port = server if isinstance(server, int) else server.port
    given = {f"TANDEM_TARGET_{name.upper()}": str(value) for name, value in {"port": port, **variables}.items()}
    return await asyncio.to_thread(probing, "target", *flags, variables=given)


def probing(*arguments: str, variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "tandem.probe", *arguments, variables=variables)


def files(tls: ServerTls) -> dict[str, Any]:
    found = {"tls_certificate": tls.certificate, "tls_key": tls.key}
    return found if tls.client_ca is None else {**found, "tls_client_ca": tls.client_ca}


def failed(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stdout) == (1, "") and len(done.stderr.splitlines()) == 1, done
    return done.stderr


async def test_a_service_that_serves_is_0_and_silent() -> None:
    async with echo_server() as server:
        for host in ("127.0.0.1", "0.0.0.0", "localhost"):
            done = await probe(server, host=host)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), host
        assert (await probe(1, "--port", str(server.port))).returncode == 0  # flags win, as with the service


async def test_a_service_that_does_not_serve_is_1_and_a_line() -> None:
    async with echo_server() as server:
        assert "NOT_FOUND" in failed(await probe(server, probe_service="tandem.v1.DraftService"))
        await server._health.enter_graceful_shutdown()
        assert "NOT_SERVING" in failed(await probe(server))
    assert "UNAVAILABLE" in failed(await probe(server))


async def test_by_tls_it_trusts_the_services_own_certificate_whatever_name_that_holds(authority: Authority) -> None:
    for identities in (("target.tandem.svc",), ("*.tandem.svc",), ("10.1.2.3",)):
        tls = authority.server("server", *identities)
        async with echo_server(tls=tls) as server:
            done = await probe(server, **files(tls))
            assert (done.returncode, done.stderr) == (0, ""), identities


async def test_under_mutual_tls_it_shows_the_services_own_certificate_or_one_for_it(
    authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    tls = authority.server("server", "target.tandem.svc", mutual=True)
    async with echo_server(tls=tls) as server:
        assert (await probe(server, **files(tls))).returncode == 0
        failed(await probe(server, tls_certificate=tls.certificate, tls_key=tls.key))  # shows none
    # The service's is of another authority than its callers': the public one, say.
    elsewhere = stranger.issue("elsewhere", "target.tandem.svc")
    other = ServerTls(elsewhere.certificate, elsewhere.key, authority.ca)
    mine = authority.issue("probe")
    async with echo_server(tls=other) as server:
        failed(await probe(server, **files(other)))
        shown = {"probe_certificate": mine.certificate, "probe_key": mine.key}
        assert (await probe(server, **files(other), **shown)).returncode == 0


async def test_an_impostor_on_the_port_is_not_taken_for_the_service(authority: Authority, stranger: Authority) -> None:
    own = authority.server("own", "target.tandem.svc")
    impostor = stranger.issue("impostor", "target.tandem.svc")
    async with echo_server(tls=ServerTls(impostor.certificate, impostor.key)) as server:
        failed(await probe(server, **files(own)))
    async with echo_server() as server:
        failed(await probe(server, **files(own)))


async def test_new_files_that_are_no_good_do_not_make_a_service_look_dead(authority: Authority) -> None:
    """It goes on with the old ones; a probe that failed for them would have it killed."""
    tls = authority.server("server", "target.tandem.svc")
    async with echo_server(tls=tls) as server:
        replace(tls.certificate, b"nonsense")
        done = await probe(server, **files(tls))
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "name the service"), (["engine"], "draft, target, orchestrator"), (["draft", "--port", "x"], "--port"),
     (["draft", "--nonsense"], "--nonsense"), (["draft", "--tls-key", "/gone"], "is needed")],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_with_the_probe_itself_is_1_and_a_line(arguments: list[str], said: str) -> None:
    assert said in failed(probing(*arguments))  # not 2, which Docker keeps for itself


def test_it_looks_where_the_services_listen_if_nothing_is_set() -> None:
    kinds = {"draft": DraftSettings, "target": TargetSettings, "orchestrator": OrchestratorSettings}
    assert {name: kind.model_fields["port"].default for name, kind in kinds.items()} == PORTS


def test_it_is_light() -> None:
    heavy = "('torch', 'transformers', 'numpy', 'fastapi', 'tokenizers', 'cryptography')"
    done = run(sys.executable, "-c", f"import sys, tandem.probe; print([n for n in {heavy} if n in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr
