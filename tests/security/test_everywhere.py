"""Mutual TLS on every wire, API keys, and all of it as processes: a completion comes through, nobody else does."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import httpx2
import pytest

import tandem
from tandem.client import AccessError, Retries, UnavailableError
from tandem.rpc.channels import connect
from tandem.v1 import draft_pb2, draft_pb2_grpc, target_pb2, target_pb2_grpc
from tests.cli.processes import environment
from tests.security.certificates import Authority
from tests.security.serving import TOKENIZER, KeyRing, orchestrator, plain_request
from tests.support.tiny import tiny_llama
from tests.support.tokens import ids
from tests.support.trio import policy, trio


async def test_a_completion_through_three_services_with_mutual_tls_everywhere(authority: Authority) -> None:
    target, draft = tiny_llama(5, vocabulary=257), tiny_llama(5, vocabulary=257, noise=0.1)
    upstream = authority.issue("orchestrator")
    secure = {
        "tls": authority.server("service", mutual=True),
        "caller_tls": authority.client("caller"),
        "upstream_ca": authority.ca,
        "upstream_certificate": upstream.certificate,
        "upstream_key": upstream.key,
    }
    async with trio(target, draft, TOKENIZER) as plain, trio(target, draft, TOKENIZER, **secure) as services:
        wanted = await plain.complete(ids("Hi"), policy=policy("fixed"), max_tokens=40)
        found = await services.complete(ids("Hi"), policy=policy("fixed"), max_tokens=40)
        assert found.token_ids == wanted.token_ids and found.finish.speculation.accepted_tokens > 0
        # Each wire refuses whoever shows nothing.
        assert services.draft is not None
        for server in (services.target, services.draft, services.orchestrator):
            for tls in (None, authority.client()):
                async with connect(server.address, tls) as channel:
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await target_pb2_grpc.TargetServiceStub(channel).GetTargetModel(
                            target_pb2.GetTargetModelRequest(), timeout=30
                        )
                    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_orchestrator_that_the_target_does_not_trust_says_so(
    authority: Authority, stranger: Authority
) -> None:
    async with trio(
        tiny_llama(5, vocabulary=257), None, TOKENIZER, tls=stranger.server(), upstream_ca=stranger.ca
    ) as services:
        async with orchestrator(services, upstream_ca=authority.ca, connect_timeout_seconds=0.5) as faces:
            call = faces.stub.Complete(plain_request())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "certificate verify failed" in caught.value.details()


async def test_an_orchestrator_process_with_tls_and_keys(authority: Authority, tmp_path: Path) -> None:
    """With the flags that an operator sets; its target and draft are in this process."""
    TOKENIZER._tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    (tmp_path / "config.json").write_text("{}")
    ring = KeyRing(tmp_path)
    key = ring.add("alice", concurrent=2)
    own = authority.issue("orchestrator")
    caller = authority.client("caller")
    flags = {
        "tls-certificate": own.certificate, "tls-key": own.key, "tls-client-ca": authority.ca,
        "upstream-ca": authority.ca, "upstream-certificate": own.certificate, "upstream-key": own.key,
        "api-keys": ring.file, "tokenizer": tmp_path, "port": 0, "http-port": 0,
    }  # fmt: skip
    target, draft = tiny_llama(5, vocabulary=257), tiny_llama(5, vocabulary=257, noise=0.1)
    tls = authority.server("service", mutual=True)
    secure = {"upstream_ca": authority.ca, "upstream_certificate": own.certificate, "upstream_key": own.key}
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(
            trio(target, draft, TOKENIZER, tls=tls, caller_tls=caller, **secure)
        )
        assert services.draft is not None
        flags |= {"target": services.target.address, "draft": services.draft.address}
        arguments = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "orchestrator", *arguments, stderr=subprocess.PIPE,
            env=environment({"TANDEM_ORCHESTRATOR_HTTP_PORT": "0"}),
        )  # fmt: skip
        try:
            http, endpoint = "", ""
            assert process.stderr is not None
            while not (http and endpoint):
                line = (await asyncio.wait_for(process.stderr.readline(), 60)).decode()
                assert line, "the orchestrator ended"
                if "listening on" in line:
                    where = line.split("listening on ")[1].split()[0]
                    http, endpoint = (where, endpoint) if where.startswith("https://") else (http, where)
            async with tandem.AsyncClient(endpoint, tls=caller, api_key=key, timeout=60) as client:
                found = await client.complete("Hi", max_tokens=12, ignore_end_tokens=True)
                assert len(found.token_ids) == 12 and found.speculation.drafted_tokens > 0
            once = Retries(attempts=1)
            async with tandem.AsyncClient(endpoint, tls=caller, api_key="tdm_no", retries=once) as client:
                with pytest.raises(AccessError, match="not known"):
                    await client.models()
            async with tandem.AsyncClient(endpoint, api_key=key, retries=once) as client:
                with pytest.raises(UnavailableError):
                    await client.models()
            context = ssl.create_default_context(cafile=authority.ca)
            assert caller.certificate is not None
            context.load_cert_chain(caller.certificate, caller.key)
            async with httpx2.AsyncClient(verify=context, base_url=http, timeout=60) as browser:
                body = {"model": "tiny", "prompt": "Hi", "max_tokens": 4, "ignore_eos": True}
                assert (await browser.post("/v1/completions", json=body)).status_code == 401
                headers = {"authorization": f"Bearer {key}"}
                answer = await browser.post("/v1/completions", json=body, headers=headers)
                assert answer.json()["usage"]["completion_tokens"] == 4
            probe = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tandem.probe", "orchestrator", "--port", endpoint.rpartition(":")[2],
                *arguments[:6], env=environment(), stderr=subprocess.PIPE,
            )  # fmt: skip
            assert await probe.wait() == 0
            process.send_signal(signal.SIGTERM)
            rest = (await asyncio.wait_for(process.communicate(), 60))[1].decode()
            assert process.returncode == 0 and "Traceback" not in rest and key not in rest
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_a_draft_is_called_by_its_own_name(authority: Authority) -> None:
    async with AsyncExitStack() as stack:
        tls = authority.server("draft", "draft.tandem.svc")
        target, draft = tiny_llama(5, vocabulary=257), tiny_llama(5, vocabulary=257)
        services = await stack.enter_async_context(trio(target, draft, TOKENIZER, tls=tls))
        assert services.draft is not None
        channel = await stack.enter_async_context(
            connect(services.draft.address, authority.client(), server_name="draft.tandem.svc")
        )
        answer = await draft_pb2_grpc.DraftServiceStub(channel).GetDraftModel(
            draft_pb2.GetDraftModelRequest(), timeout=30
        )
        assert answer.model.vocabulary_size == 257
