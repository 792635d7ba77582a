"""`python -m orchestrator`: starts one orchestrator."""

from __future__ import annotations

from orchestrator.completions import Completions
from orchestrator.gateway.app import make_app
from orchestrator.gateway.server import BothServers, HttpServer
from orchestrator.server import CompletionServicer
from orchestrator.settings import OrchestratorSettings
from orchestrator.upstream import Upstream
from tandem.log import configure_logging
from tandem.models import resolve
from tandem.serving import run_service
from tandem.settings import load_settings
from tandem.tokenization import Tokenizer
from tandem.v1 import completion_pb2_grpc


async def serve(settings: OrchestratorSettings) -> None:
    """Serves until SIGTERM or SIGINT. Raises ModelError, TokenizationError or ListenError before it listens."""
    folder = resolve(settings.tokenizer, settings.tokenizer_revision)
    tokenizer = Tokenizer.from_folder(folder.path)
    upstream = Upstream(
        settings.target, settings.draft, connect_timeout_seconds=settings.connect_timeout_seconds
    )
    completions = Completions(tokenizer, upstream, settings)
    http = None
    if settings.http_port is not None:
        app = make_app(completions)
        http = HttpServer(app, settings.host, settings.http_port, grace_seconds=settings.grace_seconds)
    server = BothServers(settings.host, settings.port, grace_seconds=settings.grace_seconds, http=http)
    server.add(
        completion_pb2_grpc.add_CompletionServiceServicer_to_server,
        CompletionServicer(completions),
        "tandem.v1.CompletionService",
    )
    try:
        await server.serve_forever(on_started=lambda port: settings.announce(port, http.port if http else None))
    finally:
        await upstream.close()


def main() -> None:
    settings = load_settings(OrchestratorSettings)
    configure_logging("orchestrator", settings.log_level)
    run_service("orchestrator", lambda: serve(settings))


if __name__ == "__main__":
    main()
