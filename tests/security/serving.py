"""One orchestrator with both faces, as its `__main__` puts it together, before services that run already."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx2

from orchestrator.access import KeyInterceptor
from orchestrator.completions import Completions
from orchestrator.gateway.app import make_app
from orchestrator.gateway.server import BothServers, HttpServer
from orchestrator.keys import Keys
from orchestrator.server import CompletionServicer
from orchestrator.settings import OrchestratorSettings
from orchestrator.upstream import Upstream
from tandem.keys import KeyEntry, KeyLimits, make_key, write_keys
from tandem.rpc.bearer import bearer
from tandem.rpc.errors import TandemError
from tandem.tokenization import Tokenizer
from tandem.v1 import completion_pb2, completion_pb2_grpc
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import OFF, Trio, make_request, trio

TOKENIZER = byte_tokenizer(257)
#: Long enough that a completion to its end outlasts what a test does to it.
CONTEXT = 32768


@dataclass(slots=True)
class Faces:
    """stub, http: call it without a key."""

    server: BothServers
    http_server: HttpServer
    completions: Completions
    stub: completion_pb2_grpc.CompletionServiceStub
    http: httpx2.AsyncClient

    async def complete(self, key: str | None, prompt: int = 4, **fields: Any) -> completion_pb2.CompleteOnceResponse:
        """By gRPC. prompt: its tokens. Raises TandemError."""
        request = completion_pb2.CompleteOnceRequest(completion=plain_request(prompt, **fields))
        try:
            return await self.stub.CompleteOnce(request, metadata=bearer(key), timeout=60)
        except grpc.aio.AioRpcError as error:
            raise TandemError.from_rpc_error(error) from None

    async def post(self, key: str | None, path: str = "/v1/completions", **body: Any) -> httpx2.Response:
        body = {"model": "tiny", "prompt": [3] * 4, "temperature": 0, **body} if path == "/v1/completions" else body
        return await self.http.post(path, json=body, headers=dict(bearer(key)))

    def refusals(self) -> Mapping[str, float]:
        """tandem_key_refusals_total by reason."""
        found = {}
        for line in self.completions.telemetry.exposition().decode().splitlines():
            name, _, value = line.rpartition(" ")
            if name.startswith("tandem_key_refusals_total{"):
                found[name.split('"')[1]] = float(value)
        return found


def plain_request(prompt: int = 4, **fields: Any) -> completion_pb2.CompleteRequest:
    return make_request([3] * prompt, **{"speculation": OFF, "ignore_end_tokens": True, **fields})


@asynccontextmanager
async def target() -> AsyncIterator[Trio]:
    """A target service; its own orchestrator is not used."""
    async with trio(tiny_llama(5, vocabulary=257, context=CONTEXT), None, TOKENIZER) as services:
        yield services


@asynccontextmanager
async def orchestrator(
    services: Trio,
    *,
    tokenizer: Tokenizer = TOKENIZER,
    clock: Callable[[], float] = time.monotonic,
    **settings: Any,
) -> AsyncIterator[Faces]:
    """clock: of the keys. settings: of the orchestrator."""
    configured = OrchestratorSettings(
        target=services.target.address,
        draft=services.draft.address if services.draft else None,
        **{"connect_timeout_seconds": 2.0, "draft_patience_seconds": 5.0, "grace_seconds": 0, **settings},
    )
    async with AsyncExitStack() as stack:
        upstream = Upstream(
            configured.target,
            configured.draft,
            connect_timeout_seconds=configured.connect_timeout_seconds,
            tls=configured.upstream_tls(),
        )
        stack.push_async_callback(upstream.close)
        completions = Completions(tokenizer, upstream, configured)
        keys = None
        if configured.api_keys is not None:
            keys = Keys(configured.api_keys, completions.telemetry.key_refused, clock=clock)
        app = make_app(
            completions, keys=keys, max_streams=configured.max_streams, max_body_bytes=int(configured.max_body_bytes)
        )
        http_server = HttpServer(app, tls=configured.server_tls(), grace_seconds=0)
        server = BothServers(
            "127.0.0.1", 0, http=http_server, interceptors=[KeyInterceptor(keys)] if keys else [],
            **configured.server_options(),
        )  # fmt: skip
        server.add(
            completion_pb2_grpc.add_CompletionServiceServicer_to_server,
            CompletionServicer(completions),
            "tandem.v1.CompletionService",
        )
        await stack.enter_async_context(server)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address))
        http = await stack.enter_async_context(httpx2.AsyncClient(base_url=http_server.url, timeout=60))
        yield Faces(server, http_server, completions, completion_pb2_grpc.CompletionServiceStub(channel), http)


class KeyRing:
    """A file of keys and the keys themselves, by id."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "keys.json"
        self.keys: dict[str, str] = {}
        self._entries: dict[str, KeyEntry] = {}
        self._write()

    def add(self, name: str, *, expires: Any = None, **limits: int) -> str:
        key, entry = make_key(name, KeyLimits(**limits), expires)
        self.keys[name], self._entries[name] = key, entry
        self._write()
        return key

    def change(self, name: str, **fields: Any) -> None:
        """fields: of the key's entry."""
        self._entries[name] = self._entries[name].model_copy(update=fields)
        self._write()

    def remove(self, name: str) -> None:
        del self._entries[name]
        self._write()

    def _write(self) -> None:
        write_keys(self.file, list(self._entries.values()))
