"""`python -m orchestrator`: starts one orchestrator."""

from __future__ import annotations

from orchestrator.access import KeyInterceptor
from orchestrator.completions import Completions
from orchestrator.gateway.app import make_app
from orchestrator.gateway.server import BothServers, HttpServer
from orchestrator.keys import Keys
from orchestrator.server import completion_service
from orchestrator.settings import OrchestratorSettings
from orchestrator.upstream import Upstream
from tandem.log import configure_logging
from tandem.models import resolve
from tandem.serving import run_service
from tandem.settings import load_settings
from tandem.telemetry import Telemetry
from tandem.telemetry.running import exposed
from tandem.telemetry.tracing import start_tracing
from tandem.tokenization import Tokenizer


async def serve(settings: OrchestratorSettings) -> None:
    """Serves until SIGTERM or SIGINT. Raises ModelError, TokenizationError or ListenError before it listens."""
    own_port = settings.metrics_port is not None
    telemetry = Telemetry(
        start_tracing("orchestrator", settings.otlp_endpoint, settings.trace_share),
        is_read=own_port or settings.http_port is not None,
    )
    async with exposed(settings, telemetry.metrics, telemetry.tracing):
        await _serve(settings, telemetry, tells_metrics=not own_port)


async def _serve(settings: OrchestratorSettings, telemetry: Telemetry, *, tells_metrics: bool) -> None:
    """tells_metrics: on the HTTP face."""
    folder = resolve(settings.tokenizer, settings.tokenizer_revision, weights=False)
    tokenizer = Tokenizer.from_folder(folder.path)
    upstream = Upstream(
        settings.target,
        settings.draft,
        settings.middle,
        connect_timeout_seconds=settings.connect_timeout_seconds,
        target_patience_seconds=settings.target_patience_seconds,
        target_timeout_seconds=settings.target_timeout_seconds,
        stall_seconds=settings.stall_seconds,
        resolve_seconds=settings.resolve_seconds,
        max_waiting=settings.max_waiting,
        telemetry=telemetry,
        tls=settings.upstream_tls(),
    )
    completions = Completions(tokenizer, upstream, settings, telemetry)
    keys = None if settings.api_keys is None else Keys(settings.api_keys, telemetry.key_refused)
    http = None
    if settings.http_port is not None:
        app = make_app(
            completions,
            keys=keys,
            max_streams=settings.max_streams,
            max_body_bytes=int(settings.max_body_bytes),
            tells_metrics=tells_metrics,
        )
        tls, grace = settings.server_tls(), settings.grace_seconds
        http = HttpServer(app, settings.host, settings.http_port, grace_seconds=grace, tls=tls)
    server = BothServers(
        settings.host,
        settings.port,
        http=http,
        observers=telemetry.interceptors(),
        interceptors=[] if keys is None else [KeyInterceptor(keys)],
        **settings.server_options(),
    )
    try:
        async with completion_service(server, completions, upstream):
            await server.serve_forever(on_started=lambda port: settings.announce(port, http.port if http else None))
    finally:
        await upstream.close()


def main() -> None:
    settings = load_settings(OrchestratorSettings)
    configure_logging("orchestrator", settings.log_level, settings.log_format)
    run_service("orchestrator", lambda: serve(settings))


if __name__ == "__main__":
    main()
