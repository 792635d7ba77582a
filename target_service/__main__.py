"""`python -m target_service`: starts one target service."""

from __future__ import annotations

from tandem.inference.parallel.place import Place, own_place
from tandem.log import configure_logging
from tandem.rpc.draining import HandOver
from tandem.rpc.server import Server
from tandem.serving import prepare_for_models, run_service
from tandem.settings import load_settings
from tandem.telemetry.running import exposed
from tandem.telemetry.services import ModelTelemetry
from tandem.telemetry.tracing import start_tracing
from tandem.v1 import target_pb2_grpc
from target_service.settings import TargetSettings

# A text that is handed over is computed again elsewhere; most have ended before, if the grace period is long enough.
_HAND_OVER = HandOver(0.75, 1.0)


async def serve(settings: TargetSettings) -> None:
    """Serves until SIGTERM or SIGINT, or follows the process that does, where torchrun has started several. Raises
    ModelError, TokenizationError or ListenError before it listens."""
    place = own_place()
    if place is not None and not place.leads:
        # Here and below, because these import torch, which takes seconds: a mistyped flag does not wait for it.
        from tandem.inference.parallel.follower import follow

        return follow(place, settings.model, settings.revision, settings.engine_options())
    tracing = start_tracing("target", settings.otlp_endpoint, settings.trace_share)
    telemetry = ModelTelemetry("target", tracing, is_read=settings.metrics_port is not None)
    async with exposed(settings, telemetry.metrics, tracing):
        await _serve(settings, telemetry, place)


async def _serve(settings: TargetSettings, telemetry: ModelTelemetry, place: Place | None) -> None:
    from tandem.inference.serving import load_engine
    from tandem.wire import model_info
    from target_service.server import TargetServicer

    served = load_engine(settings.model, settings.revision, place=place, **settings.engine_options())
    options = settings.server_options()
    server = Server(settings.host, settings.port, hand_over=_HAND_OVER, observers=telemetry.interceptors(), **options)
    servicer = TargetServicer(served.engine, model_info(served), served.grammars, telemetry)
    server.add(target_pb2_grpc.add_TargetServiceServicer_to_server, servicer, "tandem.v1.TargetService")
    served.engine.start()
    try:
        if served.group is None:
            await server.serve_forever(on_started=settings.announce)
        else:
            from target_service.group import serve_while_whole

            await serve_while_whole(server, served.engine, served.group, settings.announce)
    finally:
        await served.engine.close()
        if served.group is not None:
            served.group.close()


def main() -> None:
    settings = load_settings(TargetSettings)
    configure_logging("target", settings.log_level, settings.log_format)
    prepare_for_models()
    run_service("target_service", lambda: serve(settings))


if __name__ == "__main__":
    main()
