"""The real gateway before the real services, on a free port, with small models whose tokens are bytes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from orchestrator.completions import Completions
from orchestrator.gateway.app import make_app
from orchestrator.gateway.server import HttpServer
from orchestrator.settings import OrchestratorSettings
from orchestrator.upstream import Upstream
from tandem.tokenization import Tokenizer
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import Trio, trio

CONTEXT = 4096
_TEMPLATE = "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }};{% endfor %}"


@dataclass(slots=True)
class Served:
    """url: of the page. services: what is behind it; its `stub` is another orchestrator before the same two."""

    url: str
    services: Trio

    @property
    def sequences(self) -> int:
        engines = (self.services.target_engine, self.services.draft_engine)
        return sum(engine.load().sequences for engine in engines if engine is not None)


def tokenizer() -> Tokenizer:
    return byte_tokenizer(129, template=_TEMPLATE)


@asynccontextmanager
async def playground(*, noise: float = 0.15) -> AsyncGenerator[Served]:
    """noise: how far the draft is from its target."""
    target = tiny_llama(6, vocabulary=129, context=CONTEXT)
    draft = tiny_llama(6, vocabulary=129, context=CONTEXT, noise=noise)
    async with trio(target, draft, tokenizer()) as services:
        assert services.draft is not None
        async with gateway(services.target.address, services.draft.address) as url:
            yield Served(url, services)


@asynccontextmanager
async def gateway(target: str, draft: str | None) -> AsyncGenerator[str]:
    """An orchestrator's HTTP face in front of two addresses; gives its own."""
    settings = OrchestratorSettings(target=target, draft=draft, connect_timeout_seconds=1.0, draft_patience_seconds=5.0)
    upstream = Upstream(settings.target, settings.draft, connect_timeout_seconds=settings.connect_timeout_seconds)
    http = HttpServer(make_app(Completions(tokenizer(), upstream, settings)))
    try:
        http.bind()
        await http.serve()
        yield f"{http.url}/"
    finally:
        await http.stop()
        await upstream.close()
