"""The Python clients and the command call an orchestrator that asks for TLS, a certificate and a key."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import tandem
from tandem.client import AccessError, BusyError, ClientTls, Retries, TlsError, UnavailableError
from tests.cli.processes import environment, refusal
from tests.cli.processes import tandem as command
from tests.security.certificates import Authority
from tests.security.serving import Faces, KeyRing, orchestrator, target
from tests.support.trio import Trio

pytestmark = pytest.mark.asyncio(loop_scope="module")

ONCE = Retries(attempts=1)
SHORT: dict[str, Any] = {"max_tokens": 3, "ignore_end_tokens": True, "speculation": "off"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def services() -> AsyncIterator[Trio]:
    async with target() as running:
        yield running


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    ring = KeyRing(tmp_path)
    ring.add("alice")
    return ring


@pytest_asyncio.fixture(loop_scope="module")
async def secure(services: Trio, authority: Authority, ring: KeyRing) -> AsyncIterator[Faces]:
    """Asks for a certificate and a key."""
    tls = authority.server(mutual=True)
    files = {"tls_certificate": tls.certificate, "tls_key": tls.key, "tls_client_ca": tls.client_ca}
    async with orchestrator(services, api_keys=ring.file, **files) as faces:
        yield faces


async def test_both_clients_bring_a_certificate_and_a_key(secure: Faces, authority: Authority, ring: KeyRing) -> None:
    tls, key, address = authority.client("caller"), ring.keys["alice"], secure.server.address

    def blocking() -> tuple[int, int]:
        with tandem.Client(address, tls=tls, api_key=key, timeout=60) as client:
            assert client.load().completions == 0 and client.models().target.model_id == "tiny"
            with client.stream([3], **SHORT) as stream:
                streamed = sum(len(delta.token_ids) for delta in stream)
            return streamed, len(client.complete([3], **SHORT).token_ids)

    assert await asyncio.to_thread(blocking) == (3, 3)
    async with tandem.AsyncClient(address, tls=tls, api_key=key, timeout=60) as client:
        assert (await client.load()).completions == 0
        assert len((await client.complete([3], **SHORT)).token_ids) == 3


async def test_what_is_missing_is_an_error_of_its_own(
    secure: Faces, authority: Authority, stranger: Authority, ring: KeyRing
) -> None:
    key, address = ring.keys["alice"], secure.server.address
    for tls in (None, authority.client(), stranger.client("foreign")):
        async with tandem.AsyncClient(address, tls=tls, api_key=key, retries=ONCE) as client:
            with pytest.raises(UnavailableError) as unavailable:
                await client.models()
            assert address in unavailable.value.message
    assert "certificate verify failed" in unavailable.value.message
    mine = authority.client("caller")
    for wrong in (None, "tdm_alice_x"):
        async with tandem.AsyncClient(address, tls=mine, api_key=wrong) as client:
            with pytest.raises(AccessError) as denied:
                await client.complete([3])
            assert denied.value.reason == "UNAUTHENTICATED" and isinstance(denied.value, PermissionError)
    small = ring.add("small", max_tokens=2, tokens_per_minute=3)
    async with tandem.AsyncClient(address, tls=mine, api_key=small, retries=ONCE) as client:
        with pytest.raises(AccessError, match="max_tokens"):
            await client.complete([3], max_tokens=3)
        with pytest.raises(BusyError) as busy:
            await client.complete([3] * 4, max_tokens=1)
        assert busy.value.metadata["limit"] == "tokens_per_minute"


@pytest.mark.parametrize("key", ["", "a b", "é", "a\n"])
async def test_what_is_no_key_is_refused_here(key: str) -> None:
    for kind in (tandem.Client, tandem.AsyncClient):
        with pytest.raises(ValueError, match="API key"):
            kind("127.0.0.1:1", api_key=key)


async def test_files_that_cannot_be_used_are_refused_here(authority: Authority, tmp_path: Path) -> None:
    gone = tmp_path / "gone.pem"
    for tls in (ClientTls(gone), ClientTls(authority.ca, gone, gone), ClientTls(authority.ca, authority.ca)):
        for kind in (tandem.Client, tandem.AsyncClient):
            with pytest.raises(TlsError):
                kind("127.0.0.1:1", tls=tls)


async def say(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(command, *arguments, variables=variables)


async def test_the_command_takes_them_as_flags_and_as_variables(
    secure: Faces, authority: Authority, ring: KeyRing
) -> None:
    tls, address = authority.client("caller"), secure.server.address
    assert tls.ca is not None and tls.certificate is not None and tls.key is not None
    files = {"--ca": tls.ca, "--certificate": tls.certificate, "--key": tls.key}
    flags = [part for pair in files.items() for part in pair]
    words = ["complete", "Hi", "--raw", "--max-tokens", "3", "--policy", "off", "--ignore-end", "--json"]
    words += ["--endpoint", address]
    key = ring.keys["alice"]
    variables = {"TANDEM_CA": tls.ca, "TANDEM_CERTIFICATE": tls.certificate, "TANDEM_KEY": tls.key}
    for done in (
        await say(*words, *flags, "--api-key", key),
        await say(*words, TANDEM_API_KEY=key, **{name: str(value) for name, value in variables.items()}),
    ):
        assert done.returncode == 0 and '"completion_tokens": 3' in done.stdout, done.stderr
    assert "API key is needed" in refusal(await say(*words, *flags))
    assert "does it ask for TLS or a certificate?" in refusal(await say(*words, "--ca", authority.ca, "--api-key", key))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--ca", "/gone.pem"], "--ca: /gone.pem: cannot be read"),
        (["--certificate", "/a"], "--ca is needed"),
        (["--ca", "public", "--certificate", "/a"], "--key: is needed"),
        (["--api-key", "a b"], "--api-key: the API key must be"),
    ],
    ids=str,
)
async def test_flags_that_cannot_be_used_are_one_line(flags: list[str], said: str) -> None:
    assert said in refusal(await say("complete", "x", "--endpoint", "127.0.0.1:1", *flags))


async def test_services_started_here_have_no_tls() -> None:
    assert "name it with --endpoint" in refusal(await say("complete", "x", "--ca", "public"))


async def test_public_authorities_are_those_that_grpc_has(
    services: Trio, authority: Authority, ring: KeyRing
) -> None:
    """Which a variable of gRPC can replace; a process of its own, since gRPC reads it once."""
    tls = authority.server()
    async with orchestrator(services, tls_certificate=tls.certificate, tls_key=tls.key) as faces:
        code = f"import tandem; print(tandem.Client({faces.server.address!r}, tls=tandem.client.ClientTls()).models())"
        variables = environment({"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(authority.ca)})

        def run(variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
            done = [sys.executable, "-c", code.replace(".models()", ".models(timeout=5)")]
            return subprocess.run(done, capture_output=True, text=True, env=variables, timeout=60)

        assert "tiny" in (await asyncio.to_thread(run, variables)).stdout
        refused = await asyncio.to_thread(run, environment())
        assert refused.returncode != 0 and "certificate verify failed" in refused.stderr
