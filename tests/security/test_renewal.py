"""Certificates change while the services run: old streams go on, new connections have what is new."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import grpc
import pytest

from tandem.rpc.channels import ChannelPool, connect
from tandem.rpc.tls import ClientTls, ServerTls
from tandem.v1 import target_pb2_grpc
from tandem.v1.target_pb2 import GetTargetModelRequest, VerifyRequest
from tandem.watched import Watched
from tests.security.certificates import Authority, first, replace, shown
from tests.security.conftest import echo_server


async def exchange(stream: grpc.aio.StreamStreamCall, number: int) -> None:
    await stream.write(VerifyRequest(round={"round": number}))
    assert (await stream.read()).verified.round == number


async def test_a_new_connection_has_the_new_certificate_and_an_old_stream_goes_on(tmp_path: Path) -> None:
    old = Authority(tmp_path, "old")
    tls = old.server()
    before = first(tls.certificate.read_text())
    async with echo_server(tls=tls) as server, connect(server.address, old.client()) as channel:
        stream = target_pb2_grpc.TargetServiceStub(channel).Verify()
        await exchange(stream, 1)
        assert await asyncio.to_thread(shown, server.address) == before
        new = Authority(tmp_path, "new")
        after = first(new.issue("server").pem)
        assert await asyncio.to_thread(shown, server.address) == after != before
        await exchange(stream, 2)
        async with connect(server.address, new.client()) as later:
            await target_pb2_grpc.TargetServiceStub(later).GetTargetModel(GetTargetModelRequest(), timeout=30)
        async with connect(server.address, old.client()) as later:
            with pytest.raises(grpc.aio.AioRpcError):
                await target_pb2_grpc.TargetServiceStub(later).GetTargetModel(GetTargetModelRequest(), timeout=30)
        await exchange(stream, 3)
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF


async def test_broken_new_files_leave_the_old_certificate_and_are_logged_once(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    tls = authority.server()
    good = tls.certificate.read_bytes()
    async with echo_server(tls=tls) as server:
        before = await asyncio.to_thread(shown, server.address)
        replace(tls.certificate, b"nonsense")
        with caplog.at_level(logging.INFO, logger="tandem"):
            for _ in range(3):
                assert await asyncio.to_thread(shown, server.address) == before
            errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
            assert len(errors) == 1 and "holds no certificate in PEM" in errors[0].getMessage()
            tls.certificate.unlink()
            assert await asyncio.to_thread(shown, server.address) == before
            replace(tls.certificate, good)
            assert await asyncio.to_thread(shown, server.address) == before
            assert "read again" in caplog.text
        renewed = authority.issue("server").pem
        assert await asyncio.to_thread(shown, server.address) == first(renewed)


async def test_half_of_a_renewal_is_waited_out(authority: Authority) -> None:
    """The certificate is there before its key: nothing is served that does not fit."""
    tls = authority.server()
    async with echo_server(tls=tls) as server:
        before = await asyncio.to_thread(shown, server.address)
        other = authority.issue("other")
        replace(tls.certificate, other.certificate.read_bytes())
        assert await asyncio.to_thread(shown, server.address) == before
        replace(tls.key, other.key.read_bytes())
        assert await asyncio.to_thread(shown, server.address) == first(other.pem)


async def test_a_pool_goes_over_to_its_new_files_and_ends_old_connections_with_their_streams(tmp_path: Path) -> None:
    servers = Authority(tmp_path, "servers")
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    trusted = tmp_path / "trusted.pem"
    replace(trusted, old.ca.read_bytes())
    pair = servers.issue("server")
    shows = old.issue("caller")
    pool_tls = ClientTls(servers.ca, shows.certificate, shows.key)
    async with echo_server(tls=ServerTls(pair.certificate, pair.key, trusted)) as server:
        pool = ChannelPool(server.address, 2, tls=pool_tls)
        with pool.lease() as channel:
            stream = target_pb2_grpc.TargetServiceStub(channel).Verify()
            await exchange(stream, 1)
            replace(trusted, new.ca.read_bytes())
            new.issue("caller")
            with pool.lease() as fresh:
                assert fresh is not channel and pool.streams == 2
                await target_pb2_grpc.TargetServiceStub(fresh).GetTargetModel(GetTargetModelRequest(), timeout=30)
            await exchange(stream, 2)
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF
        assert pool.streams == 0
        await asyncio.sleep(0)
        with pytest.raises(grpc.aio.UsageError):  # it is closed
            target_pb2_grpc.TargetServiceStub(channel).Verify()
        await pool.close()


async def test_a_pool_with_broken_new_files_goes_on_with_the_old(authority: Authority) -> None:
    tls = authority.client("caller")
    assert tls.certificate is not None
    async with echo_server(tls=authority.server(mutual=True)) as server:
        pool = ChannelPool(server.address, 1, tls=tls)
        for _ in range(2):
            with pool.lease() as channel:
                await target_pb2_grpc.TargetServiceStub(channel).GetTargetModel(GetTargetModelRequest(), timeout=30)
            replace(tls.certificate, b"nonsense")
        await pool.close()


def test_a_link_that_leads_elsewhere_is_a_change(tmp_path: Path) -> None:
    """As Kubernetes exchanges a mounted secret."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    current, file = tmp_path / "current", tmp_path / "file"
    current.symlink_to("one")
    file.symlink_to("current/file")
    watched = Watched([file], file.read_text, what="a file")
    assert watched.get() == "one"
    fresh = tmp_path / "fresh"
    fresh.symlink_to("two")
    fresh.replace(current)
    assert watched.get() == "two"


def test_what_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    reads = []
    watched = Watched([file], lambda: reads.append(file.read_text()), what="a file")
    for _ in range(5):
        watched.get()
    assert reads == ["x"]
