"""`python -m target_service`: starts one target service."""

from __future__ import annotations

from tandem.log import configure_logging
from tandem.rpc.server import Server
from tandem.serving import prepare_for_models, run_service
from tandem.settings import load_settings
from tandem.v1 import target_pb2_grpc
from target_service.settings import TargetSettings


async def serve(settings: TargetSettings) -> None:
    """Serves until SIGTERM or SIGINT. Raises ModelError, TokenizationError or ListenError before it listens."""
    # Here, because these import torch, which takes seconds: a mistyped flag does not wait for it.
    from tandem.inference.serving import load_engine
    from tandem.wire import model_info
    from target_service.server import TargetServicer

    served = load_engine(settings.model, settings.revision, **settings.engine_options())
    server = Server(settings.host, settings.port, grace_seconds=settings.grace_seconds)
    servicer = TargetServicer(served.engine, model_info(served), served.grammars)
    server.add(target_pb2_grpc.add_TargetServiceServicer_to_server, servicer, "tandem.v1.TargetService")
    served.engine.start()
    try:
        await server.serve_forever(on_started=settings.announce)
    finally:
        await served.engine.close()


def main() -> None:
    settings = load_settings(TargetSettings)
    configure_logging("target", settings.log_level)
    prepare_for_models()
    run_service("target_service", lambda: serve(settings))


if __name__ == "__main__":
    main()
