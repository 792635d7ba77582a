"""Keys and their limits at a real orchestrator, on both faces."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import tandem.keys
from tandem.keys import make_key
from tandem.rpc.bearer import bearer
from tandem.rpc.errors import TandemError
from tandem.v1 import completion_pb2
from tests.security.serving import Faces, KeyRing, orchestrator, plain_request, target
from tests.support.trio import Trio

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def services() -> AsyncIterator[Trio]:
    async with target() as running:
        yield running


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    ring = KeyRing(tmp_path)
    ring.add("alice")
    return ring


async def refusal(faces: Faces, key: str | None, **fields: Any) -> TandemError:
    with pytest.raises(TandemError) as caught:
        await faces.complete(key, **fields)
    return caught.value


async def test_a_valid_key_is_served_on_both_faces_and_no_other(services: Trio, ring: KeyRing) -> None:
    now = datetime.now(UTC)
    ring.add("old", expires=now - timedelta(hours=1))
    ring.add("revoked")
    ring.change("revoked", revoked=now)
    alice = ring.keys["alice"]
    wrong = alice[:-4] + ("AAAA" if not alice.endswith("AAAA") else "BBBB")
    bad = {
        None: "missing", wrong: "unknown", make_key("nobody", ring._entries["alice"].limits, None)[0]: "unknown",
        "sk-something": "unknown", ring.keys["old"]: "expired", ring.keys["revoked"]: "revoked",
    }  # fmt: skip
    async with orchestrator(services, api_keys=ring.file) as faces:
        assert len((await faces.complete(alice, max_tokens=3)).token_ids) == 3
        assert (await faces.post(alice, max_tokens=3)).status_code == 200
        for key in bad:
            error = await refusal(faces, key)
            assert (error.reason, error.code, error.retry_after) == (
                "UNAUTHENTICATED", grpc.StatusCode.UNAUTHENTICATED, None,
            )  # fmt: skip
            answer = await faces.post(key)
            told = answer.json()["error"]
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert (told["code"], told["type"]) == ("invalid_api_key", "invalid_request_error")
            assert told["message"] == error.message
        # Twice each, once a face.
        assert faces.refusals() == {"missing": 2, "unknown": 6, "expired": 2, "revoked": 2}


async def test_other_forms_of_the_header_are_no_key(services: Trio, ring: KeyRing) -> None:
    alice = ring.keys["alice"]
    async with orchestrator(services, api_keys=ring.file) as faces:
        for header in (alice, f"Basic {alice}", "Bearer", f"Bearer {alice} x", f"Bearer x {alice}"):
            answer = await faces.http.get("/v1/models", headers={"authorization": header})
            assert answer.status_code == 401, header
        twice = [("authorization", f"Bearer {alice}")] * 2
        assert (await faces.http.get("/v1/models", headers=twice)).status_code == 401
        lower = {"authorization": f"bearer {alice}"}
        assert (await faces.http.get("/v1/models", headers=lower)).status_code == 200


async def test_what_needs_no_key_and_what_does(services: Trio, ring: KeyRing) -> None:
    async with orchestrator(services, api_keys=ring.file) as faces:
        for path in ("/", "/healthz", "/openapi.json", "/playground/main.js"):
            assert (await faces.http.get(path)).status_code == 200, path
        for path in ("/v1/models", "/tandem/v1/load", "/metrics", "/playground", "/no/such"):
            assert (await faces.http.get(path)).status_code == 401, path
        async with grpc.aio.insecure_channel(faces.server.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for service in ("", "tandem.v1.CompletionService"):
                asked = await health.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
                assert asked.status == health_pb2.HealthCheckResponse.SERVING
            for name in ("GetModels", "GetLoad", "Tokenize", "Detokenize"):
                request = getattr(completion_pb2, f"{name}Request")()
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await getattr(faces.stub, name)(request, timeout=30)
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            for key, code in ((None, grpc.StatusCode.UNAUTHENTICATED), (ring.keys["alice"], grpc.StatusCode.OK)):
                listing = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(metadata=bearer(key))
                await listing.write(reflection_pb2.ServerReflectionRequest(list_services=""))
                await listing.done_writing()
                try:
                    async for _ in listing:
                        pass
                except grpc.aio.AioRpcError:
                    pass
                assert await listing.code() is code


async def test_openais_client_raises_its_own_errors(services: Trio, ring: KeyRing) -> None:
    ring.add("small", max_tokens=4, tokens_per_minute=8)
    async with orchestrator(services, api_keys=ring.file, clock=lambda: 0.0) as faces:
        async def create(key: str, **fields: Any) -> Any:
            url = f"{faces.http_server.url}/v1"
            async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=60) as client:
                return await client.completions.create(model="tiny", prompt=[3] * 4, **fields)

        with pytest.raises(openai.AuthenticationError):
            await create("tdm_none")
        with pytest.raises(openai.PermissionDeniedError) as denied:
            await create(ring.keys["small"], max_tokens=5)
        assert denied.value.param == "max_tokens"
        answer = await create(ring.keys["small"], extra_body={"ignore_eos": True})
        assert answer.usage.completion_tokens == 4  # not OpenAI's 16: the key's
        with pytest.raises(openai.RateLimitError) as limited:
            await create(ring.keys["small"])
        assert limited.value.code == "rate_limit_exceeded" and limited.value.response.headers["retry-after"] == "30"


async def test_a_key_may_ask_for_so_many_tokens_and_gets_no_more_unasked(services: Trio, ring: KeyRing) -> None:
    key = ring.add("small", max_tokens=6)
    async with orchestrator(services, api_keys=ring.file) as faces:
        error = await refusal(faces, key, max_tokens=7)
        assert (error.reason, error.field) == ("PERMISSION_DENIED", "completion.max_tokens")
        assert "6" in error.message and error.retry_after is None
        assert len((await faces.complete(key)).token_ids) == 6
        assert len((await faces.complete(key, max_tokens=6)).token_ids) == 6
        assert len((await faces.complete(ring.keys["alice"], max_tokens=7)).token_ids) == 7
        assert faces.refusals() == {"max_tokens": 1}


async def test_concurrency_holds_exactly_over_both_faces(services: Trio, ring: KeyRing) -> None:
    key = ring.add("three", concurrent=3)
    async with orchestrator(services, api_keys=ring.file) as faces:
        request = plain_request(max_tokens=30_000)
        calls = [faces.stub.Complete(request, metadata=bearer(key)) for _ in range(10)]
        firsts = await asyncio.gather(*(call.read() for call in calls), return_exceptions=True)
        open_calls = [call for call, found in zip(calls, firsts, strict=True) if not isinstance(found, Exception)]
        refused = [TandemError.from_rpc_error(error) for error in firsts if isinstance(error, grpc.aio.AioRpcError)]
        assert (len(open_calls), len(refused)) == (3, 7)
        for error in refused:
            assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and error.retry_after is not None
            assert error.metadata == {"limit": "concurrent", "allowed": "3"}
        answer = await faces.post(key, max_tokens=1)
        assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        assert len((await faces.complete(ring.keys["alice"], max_tokens=1)).token_ids) == 1  # its own
        open_calls[0].cancel()
        await until_open(faces, 2)
        assert (await faces.post(key, max_tokens=1)).status_code == 200
        two = {"max_tokens": 1, "prompt": [[3], [4]], "n": 1}
        assert (await faces.post(key, **two)).status_code == 429  # each prompt is a completion
        for call in open_calls:
            call.cancel()
        await until_open(faces, 0)
        several = await refusal(faces, key, n=4, sampling={"temperature": 1}, max_tokens=1)
        assert several.retry_after is None
        assert (await faces.complete(key, n=3, sampling={"temperature": 1}, max_tokens=1)).finish.usage.prompt_tokens
        assert faces.refusals() == {"concurrent": 10}


async def until_open(faces: Faces, count: int) -> None:
    for _ in range(1000):
        if (await faces.completions.load()).completions == count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{(await faces.completions.load()).completions} completions are open")


async def test_tokens_are_charged_as_they_come_and_no_answer_is_cut(services: Trio, ring: KeyRing) -> None:
    key, now = ring.add("hundred", tokens_per_minute=100), [0.0]
    async with orchestrator(services, api_keys=ring.file, clock=lambda: now[0]) as faces:
        for _ in range(7):  # 15 each; before the last, 10 are left, as many as its prompt has
            assert len((await faces.complete(key, prompt=10, max_tokens=5)).token_ids) == 5
        error = await refusal(faces, key, prompt=10, max_tokens=5)
        assert error.retry_after == pytest.approx(9)  # 105 are used, and 10 more have to fit
        assert error.metadata == {"limit": "tokens_per_minute", "allowed": "100"}
        now[0] = 9.0
        assert len((await faces.complete(key, prompt=10, max_tokens=200)).token_ids) == 200
        assert (await refusal(faces, key, prompt=1)).retry_after == pytest.approx(201 * 0.6)
        answer = await faces.post(key)
        assert answer.status_code == 429 and answer.headers["retry-after"] == "123"
        assert (await refusal(faces, key, prompt=101)).retry_after is None
        assert faces.refusals() == {"tokens_per_minute": 4}
        assert len((await faces.complete(ring.keys["alice"], prompt=500, max_tokens=5)).token_ids) == 5


async def test_what_comes_at_once_is_admitted_within_the_bucket(services: Trio, ring: KeyRing) -> None:
    key = ring.add("bucket", tokens_per_minute=100)
    async with orchestrator(services, api_keys=ring.file, clock=lambda: 0.0) as faces:
        calls = [faces.complete(key, prompt=20, max_tokens=1) for _ in range(30)]
        found = await asyncio.gather(*calls, return_exceptions=True)
        served = [answer for answer in found if not isinstance(answer, BaseException)]
        # Five prompts fit; one fewer where tokens of the first came before the last.
        assert len(served) in (4, 5)
        assert all(isinstance(error, TandemError) for error in found if isinstance(error, BaseException))
        assert faces.refusals() == {"tokens_per_minute": 30 - len(served)}


async def test_a_change_of_the_file_counts_from_the_next_request_on(
    services: Trio, ring: KeyRing, caplog: pytest.LogCaptureFixture
) -> None:
    alice = ring.keys["alice"]
    async with orchestrator(services, api_keys=ring.file) as faces:
        stream = faces.stub.Complete(plain_request(max_tokens=600), metadata=bearer(alice))
        await stream.read()
        new = ring.add("new", max_tokens=2)
        await faces.complete(new, max_tokens=2)
        ring.change("alice", revoked=datetime.now(UTC))
        assert (await refusal(faces, alice)).reason == "UNAUTHENTICATED"
        good = ring.file.read_bytes()
        with caplog.at_level(logging.ERROR, logger="tandem"):
            ring.file.write_text("{")
            for _ in range(3):
                await faces.complete(new, max_tokens=2)  # the old keys stand
        assert len(caplog.records) == 1 and "Invalid JSON" in caplog.text
        ring.file.write_bytes(good)
        ring.remove("new")
        assert (await refusal(faces, new)).reason == "UNAUTHENTICATED"
        # What a key had begun before it was revoked goes on to its end.
        last = None
        while (response := await stream.read()) is not grpc.aio.EOF:
            last = response
        assert last.finish.usage.completion_tokens == 600


async def test_use_outlives_a_change_of_the_file(services: Trio, ring: KeyRing) -> None:
    key = ring.add("used", tokens_per_minute=20)
    async with orchestrator(services, api_keys=ring.file, clock=lambda: 0.0) as faces:
        await faces.complete(key, prompt=10, max_tokens=10)
        ring.add("another")
        assert (await refusal(faces, key, prompt=1)).reason == "RATE_LIMIT_EXCEEDED"


async def test_keys_are_in_no_log_and_in_no_metric(
    services: Trio, ring: KeyRing, caplog: pytest.LogCaptureFixture
) -> None:
    secret = ring.keys["alice"].split("_", 2)[2]
    wrong = "tdm_alice_" + "w" * 43
    with caplog.at_level(logging.DEBUG):
        async with orchestrator(services, api_keys=ring.file) as faces:
            await faces.complete(ring.keys["alice"], max_tokens=1)
            await faces.post(ring.keys["alice"], max_tokens=1)
            for key in (wrong, f"x{ring.keys['alice']}"):
                told = await refusal(faces, key)
                answer = await faces.post(key)
                assert secret not in str(told) + answer.text and "www" not in str(told) + answer.text
            exposition = faces.completions.telemetry.exposition().decode()
    assert secret not in caplog.text + exposition and "w" * 43 not in caplog.text + exposition
    assert "alice" not in exposition


async def test_an_unknown_id_costs_what_a_known_one_does(
    services: Trio, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same hash over the key, the same comparison of as many bytes."""
    compared: list[tuple[int, int]] = []
    hashed: list[int] = []
    compare, digest = hmac.compare_digest, tandem.keys.digest_of

    def compare_digest(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    def digest_of(key: str) -> bytes:
        hashed.append(len(key))
        return digest(key)

    monkeypatch.setattr("orchestrator.keys.hmac.compare_digest", compare_digest)
    monkeypatch.setattr("orchestrator.keys.digest_of", digest_of)
    async with orchestrator(services, api_keys=ring.file) as faces:
        for name in ("alice", "nobod"):
            await refusal(faces, f"tdm_{name}_{'x' * 43}")
    assert len(set(compared)) == len(set(hashed)) == 1 and len(compared) == len(hashed) == 2


async def test_without_keys_a_key_is_not_looked_at(services: Trio) -> None:
    async with orchestrator(services) as faces:
        for key in (None, "anything"):
            await faces.complete(key, max_tokens=1)
            assert (await faces.post(key, max_tokens=1)).status_code == 200


async def test_nobody_without_a_key_makes_the_server_read_megabytes(services: Trio, ring: KeyRing) -> None:
    """A message above what is taken would be refused for its size, were it read."""
    async with orchestrator(services, api_keys=ring.file, max_message_bytes=1024) as faces:
        request = completion_pb2.CompleteOnceRequest(completion={"text": "x" * 5_000_000})
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await faces.stub.CompleteOnce(request, timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
