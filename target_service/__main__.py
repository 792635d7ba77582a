"""`python -m target_service`: starts one target service."""

from __future__ import annotations

from tandem.serving import prepare_for_models, run_service

prepare_for_models()

from tandem.inference.loaded import UnsupportedModelError  # noqa: E402
from tandem.inference.serving import load_engine  # noqa: E402
from tandem.log import configure_logging  # noqa: E402
from tandem.rpc.server import Server  # noqa: E402
from tandem.settings import load_settings  # noqa: E402
from tandem.v1 import target_pb2_grpc  # noqa: E402
from tandem.wire import model_info  # noqa: E402
from target_service.server import TargetServicer  # noqa: E402
from target_service.settings import TargetSettings  # noqa: E402


async def serve(settings: TargetSettings) -> None:
    """Serves until SIGTERM or SIGINT. Raises ModelError, UnsupportedModelError, TokenizationError or ListenError."""
    served = load_engine(
        settings.model, settings.revision, dtype=settings.dtype, device=settings.device, threads=settings.threads
    )
    server = Server(settings.host, settings.port, grace_seconds=settings.grace_seconds)
    servicer = TargetServicer(served.engine, model_info(served))
    server.add(target_pb2_grpc.add_TargetServiceServicer_to_server, servicer, "tandem.v1.TargetService")
    served.engine.start()
    try:
        await server.serve_forever(on_started=settings.announce)
    finally:
        await served.engine.close()


def main() -> None:
    settings = load_settings(TargetSettings)
    configure_logging("target", settings.log_level)
    run_service("target_service", lambda: serve(settings), UnsupportedModelError)


if __name__ == "__main__":
    main()
