"""Who gets a connection: by TLS, by mutual TLS, and by the name that a certificate holds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
import trustme

from tandem.rpc.channels import ChannelPool, connect, connect_blocking
from tandem.rpc.credentials import handshake_problem
from tandem.rpc.tls import ClientTls, ServerTls
from tandem.v1 import target_pb2_grpc
from tandem.v1.target_pb2 import GetTargetModelRequest
from tests.security.certificates import Authority
from tests.security.conftest import echo_server


async def call(address: str, tls: ClientTls | None, server_name: str | None = None) -> str:
    async with connect(address, tls, server_name=server_name) as channel:
        stub = target_pb2_grpc.TargetServiceStub(channel)
        return (await stub.GetTargetModel(GetTargetModelRequest(), timeout=30)).model.model_id


async def refusal(address: str, tls: ClientTls | None, server_name: str | None = None) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(address, tls, server_name)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return caught.value


async def test_a_caller_that_trusts_the_authority_is_served(authority: Authority) -> None:
    async with echo_server(tls=authority.server()) as server:
        assert await call(server.address, authority.client())
        localhost = f"localhost:{server.port}"

        def blocking() -> str:
            with connect_blocking(localhost, authority.client()) as channel:
                stub = target_pb2_grpc.TargetServiceStub(channel)
                return stub.GetTargetModel(GetTargetModelRequest(), timeout=30).model.model_id

        assert await asyncio.to_thread(blocking)


async def test_a_plain_caller_is_refused(authority: Authority) -> None:
    async with echo_server(tls=authority.server()) as server:
        error = await refusal(server.address, None)
    assert "does it ask for TLS" in (handshake_problem(error) or "")


async def test_a_caller_of_a_plain_server_by_tls_is_told_so(authority: Authority) -> None:
    async with echo_server() as server:
        error = await refusal(server.address, authority.client())
    assert "wrong version number" in (handshake_problem(error) or "")


async def test_a_server_of_another_authority_is_not_spoken_to(authority: Authority, stranger: Authority) -> None:
    async with echo_server(tls=stranger.server()) as server:
        error = await refusal(server.address, authority.client())
    assert "certificate verify failed" in (handshake_problem(error) or "")


async def test_a_server_that_is_not_there_is_no_matter_of_tls(authority: Authority) -> None:
    assert handshake_problem(await refusal("127.0.0.1:1", authority.client())) is None
    assert handshake_problem(await refusal("127.0.0.1:1", None)) is None


async def test_mutual_tls_lets_in_nobody_without_a_certificate_of_the_authority(
    authority: Authority, stranger: Authority
) -> None:
    async with echo_server(tls=authority.server(mutual=True)) as server:
        assert await call(server.address, authority.client("caller"))
        await refusal(server.address, authority.client())
        foreign = stranger.issue("foreign")
        await refusal(server.address, ClientTls(authority.ca, foreign.certificate, foreign.key))
        await refusal(server.address, None)


async def test_the_certificate_must_hold_the_name_that_was_called(authority: Authority) -> None:
    async with echo_server(tls=authority.server("target", "target.tandem.svc", "*.pods.tandem.svc")) as server:
        for name in ("target.tandem.svc", "a.pods.tandem.svc"):
            assert await call(server.address, authority.client(), name)
        for name in (None, "draft.tandem.svc", "pods.tandem.svc"):
            error = await refusal(server.address, authority.client(), name)
            assert "does not hold the name" in (handshake_problem(error) or ""), error.details()


async def test_a_pool_checks_the_name_it_was_given_on_each_connection(authority: Authority) -> None:
    async with echo_server(tls=authority.server("target", "target")) as server:
        pool = ChannelPool(server.address, 3, tls=authority.client(), server_name="target")
        peers = set()
        for _ in range(6):
            with pool.lease() as channel:
                stub = target_pb2_grpc.TargetServiceStub(channel)
                peers.add((await stub.GetTargetModel(GetTargetModelRequest(), timeout=30)).model.model_id)
        await pool.close()
        assert len(peers) == 3
        wrong = ChannelPool(server.address, 1, tls=authority.client())
        with wrong.lease() as channel, pytest.raises(grpc.aio.AioRpcError):
            await target_pb2_grpc.TargetServiceStub(channel).GetTargetModel(GetTargetModelRequest(), timeout=30)
        await wrong.close()


async def test_a_chain_leads_to_an_authority_of_which_it_only_has_the_root(tmp_path: Path) -> None:
    """Certificates mostly come from an authority below the one that is trusted."""
    root = trustme.CA()
    leaf = root.create_child_ca().issue_cert("127.0.0.1")
    files = ServerTls(tmp_path / "chain.crt", tmp_path / "chain.key")
    files.certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    files.key.write_bytes(leaf.private_key_pem.bytes())
    ca = tmp_path / "root.pem"
    ca.write_bytes(root.cert_pem.bytes())
    async with echo_server(tls=files) as server:
        assert await call(server.address, ClientTls(ca))
