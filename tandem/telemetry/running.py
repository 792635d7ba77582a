"""What a service's `__main__` does for its telemetry."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tandem.settings import ServiceSettings
from tandem.telemetry.exposition import MetricsServer
from tandem.telemetry.metric import Metrics
from tandem.telemetry.tracing import Tracing


@asynccontextmanager
async def exposed(settings: ServiceSettings, metrics: Metrics, tracing: Tracing) -> AsyncGenerator[None]:
    """Serves the metrics where there is a port for them, until the end of the drain, then sends the last spans. Raises
    ListenError, before anything large is loaded."""
    server = None
    if settings.metrics_port is not None:
        server = MetricsServer(metrics, settings.host, settings.metrics_port)
        server.start()
    try:
        yield
    finally:
        if server is not None:
            await server.close()
        await tracing.close()
