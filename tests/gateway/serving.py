"""Both faces of one orchestrator over a real trio: HTTP by uvicorn on a free port, gRPC beside it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import httpx2
import openai

from orchestrator.completions import Completions
from orchestrator.gateway.app import make_app
from orchestrator.gateway.server import HttpServer
from orchestrator.server import completion_service
from orchestrator.settings import OrchestratorSettings
from orchestrator.upstream import Upstream
from tandem.inference.loaded import LoadedModel
from tandem.rpc.server import Server
from tandem.tokenization import Tokenizer
from tandem.v1 import completion_pb2, completion_pb2_grpc
from tests.support.tiny import tiny_llama
from tests.support.tokens import END, byte_tokenizer
from tests.support.trio import Trio, trio

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}"
    "{% if m.name %}[{{ m.name }}]{% endif %}{% if m.tool_call_id %}({{ m.tool_call_id }}){% endif %}"
    "{% for c in m.tool_calls or [] %}<{{ c.id }} {{ c.function.name }} "
    "{{ c.function.arguments | tojson }}>{% endfor %}"
    ";{% endfor %}{% for t in tools or [] %}{{ t.function | tojson }}{% endfor %}{{ mood or '' }}"
)
TOKENIZER = byte_tokenizer(257, template=TEMPLATE, ends=(END,))
#: Blocks of three, whatever they cost: rounds with candidates for certain.
LOSSLESS = {"stop": {"fixed": {}, "max_tokens": 3}, "accept": {"exact": {}}}


@dataclass(slots=True)
class Gateway:
    """url: of the HTTP face. stub: calls the same orchestrator by gRPC."""

    services: Trio
    completions: Completions
    server: HttpServer
    stub: completion_pb2_grpc.CompletionServiceStub
    http: httpx2.AsyncClient
    client: openai.AsyncOpenAI
    stub_port: int

    @property
    def url(self) -> str:
        return self.server.url

    async def post(self, path: str, body: Any, **options: Any) -> httpx2.Response:
        return await self.http.post(path, json=body, **options)

    async def text(self, prompt: str | list[int] = "Hi", **body: Any) -> dict[str, Any]:
        """The answer of /v1/completions; asserts that there is one."""
        answer = await self.post("/v1/completions", {"model": "tiny", "prompt": prompt, **body})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def chat(self, content: str = "Hi", **body: Any) -> dict[str, Any]:
        messages = body.pop("messages", [{"role": "user", "content": content}])
        answer = await self.post("/v1/chat/completions", {"model": "tiny", "messages": messages, **body})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def error(self, path: str, body: Any, status: int = 400) -> dict[str, Any]:
        answer = await self.post(path, body)
        assert answer.status_code == status, answer.text
        return answer.json()["error"]

    async def grpc(self, **fields: Any) -> completion_pb2.CompleteOnceResponse:
        return await self.grpc_request(completion_pb2.CompleteRequest(**fields))

    async def grpc_request(self, request: completion_pb2.CompleteRequest) -> completion_pb2.CompleteOnceResponse:
        return await self.stub.CompleteOnce(completion_pb2.CompleteOnceRequest(completion=request), timeout=60.0)


def pair(noise: float = 0.1) -> tuple[LoadedModel, LoadedModel]:
    return tiny_llama(5, vocabulary=257), tiny_llama(5, vocabulary=257, noise=noise)


@asynccontextmanager
async def gateway(
    target: LoadedModel | None = None,
    draft: LoadedModel | None = None,
    tokenizer: Tokenizer = TOKENIZER,
    *,
    own: Tokenizer | None = None,
    grace_seconds: float = 10.0,
    **options: Any,
) -> AsyncGenerator[Gateway]:
    """own: the orchestrator's tokenizer where it is another than the target's. options: of `trio`. Without models, a
    pair that agrees often."""
    if target is None:
        target, draft = pair()
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(trio(target, draft, tokenizer, **options))
        connect_timeout_seconds = options.get("connect_timeout_seconds", 2.0)
        settings = OrchestratorSettings(
            target=services.target.address,
            draft=services.draft.address if services.draft else None,
            connect_timeout_seconds=connect_timeout_seconds,
            draft_patience_seconds=5.0,
        )
        upstream = Upstream(
            settings.target, settings.draft, connect_timeout_seconds=connect_timeout_seconds
        )
        stack.push_async_callback(upstream.close)
        completions = Completions(own or tokenizer, upstream, settings)
        grpc_server = Server()
        await stack.enter_async_context(completion_service(grpc_server, completions, upstream))
        await stack.enter_async_context(grpc_server)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(grpc_server.address))
        server = HttpServer(make_app(completions), grace_seconds=grace_seconds)
        server.bind()
        await server.serve()
        stack.push_async_callback(server.stop)
        http = await stack.enter_async_context(httpx2.AsyncClient(base_url=server.url, timeout=60.0))
        client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=60.0)
        stack.push_async_callback(client.close)
        stub = completion_pb2_grpc.CompletionServiceStub(channel)
        yield Gateway(services, completions, server, stub, http, client, grpc_server.port)
