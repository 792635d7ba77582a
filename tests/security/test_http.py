"""TLS of the HTTP face: the same files and the same rules as gRPC's."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from orchestrator.gateway.connection import Gate
from orchestrator.gateway.server import HttpServer
from tandem.rpc.tls import ClientTls, ServerTls
from tests.security.certificates import Authority, first, replace, shown


class Lines:
    """An app whose only answer is a stream that goes on when it is told to."""

    def __init__(self) -> None:
        self.app = FastAPI()
        self.app.state.gate = Gate()
        self.more: asyncio.Queue[str] = asyncio.Queue()

        @self.app.get("/lines")
        async def lines() -> StreamingResponse:
            return StreamingResponse(self._lines(), media_type="text/plain")

        @self.app.get("/")
        async def root() -> str:
            return "here"

    async def _lines(self) -> AsyncIterator[str]:
        while line := await self.more.get():
            yield f"{line}\n"


@asynccontextmanager
async def serving(app: FastAPI, tls: ServerTls) -> AsyncIterator[HttpServer]:
    server = HttpServer(app, tls=tls, grace_seconds=0)
    server.bind()
    await server.serve()
    try:
        yield server
    finally:
        await server.stop()


def trust(tls: ClientTls, most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> httpx2.AsyncClient:
    context = ssl.create_default_context(cafile=tls.ca)
    context.maximum_version = most
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return httpx2.AsyncClient(verify=context, timeout=30)


def address(server: HttpServer) -> str:
    return server.url.removeprefix("https://")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_https_is_served_and_plain_http_is_not(authority: Authority, version: ssl.TLSVersion) -> None:
    async with serving(Lines().app, authority.server()) as server:
        assert server.url.startswith("https://")
        async with trust(authority.client(), version) as client:
            assert (await client.get(server.url)).json() == "here"
            with pytest.raises(httpx2.TransportError):
                await client.get(server.url.replace("https", "http"))


async def test_a_server_of_another_authority_is_not_spoken_to(authority: Authority, stranger: Authority) -> None:
    async with serving(Lines().app, stranger.server()) as server, trust(authority.client()) as client:
        with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.get(server.url)


async def test_mutual_tls_lets_in_nobody_without_a_certificate_of_the_authority(
    authority: Authority, stranger: Authority
) -> None:
    async with serving(Lines().app, authority.server(mutual=True)) as server:
        async with trust(authority.client("caller")) as client:
            assert (await client.get(server.url)).json() == "here"
        foreign = stranger.issue("foreign")
        for tls in (authority.client(), ClientTls(authority.ca, foreign.certificate, foreign.key)):
            async with trust(tls) as client:
                with pytest.raises(httpx2.TransportError):
                    await client.get(server.url)
        async with trust(authority.client("caller"), ssl.TLSVersion.TLSv1_2) as client:
            with pytest.raises(httpx2.TransportError):  # sessions of it could outlive their authority
                await client.get(server.url)


async def test_a_new_connection_has_the_new_certificate_and_an_old_stream_goes_on(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    lines = Lines()
    tls = authority.server()
    async with serving(lines.app, tls) as server, trust(authority.client()) as client:
        lines.more.put_nowait("one")
        async with client.stream("GET", f"{server.url}/lines") as answer:
            seen = answer.aiter_lines()
            assert await anext(seen) == "one"
            before = await asyncio.to_thread(shown, address(server))
            renewed = authority.issue("server").pem
            assert await asyncio.to_thread(shown, address(server)) == first(renewed) != before
            replace(tls.key, b"nonsense")
            with caplog.at_level(logging.ERROR, logger="tandem"):
                for _ in range(3):
                    assert await asyncio.to_thread(shown, address(server)) == first(renewed)
            assert len(caplog.records) == 1 and "holds no private key" in caplog.text
            lines.more.put_nowait("two")
            assert await anext(seen) == "two"
            lines.more.put_nowait("")
            assert [line async for line in seen] == []


async def test_an_authority_that_is_no_longer_trusted_lets_nobody_in(authority: Authority, stranger: Authority) -> None:
    tls = authority.server(mutual=True)
    assert tls.client_ca is not None
    async with serving(Lines().app, tls) as server:
        async with trust(authority.client("caller")) as client:
            assert (await client.get(server.url)).json() == "here"
        trusted = authority.client("caller")
        replace(tls.client_ca, stranger.ca.read_bytes())
        foreign = stranger.issue("foreign")
        ca = authority.ca.with_name("kept.pem")
        authority._authority.cert_pem.write_to_path(str(ca))
        async with trust(ClientTls(ca, trusted.certificate, trusted.key)) as client:
            with pytest.raises(httpx2.TransportError):
                await client.get(server.url)
        async with trust(ClientTls(ca, foreign.certificate, foreign.key)) as client:
            assert (await client.get(server.url)).json() == "here"
