"""`python -m draft_service`: starts one draft service."""

from __future__ import annotations

from tandem.serving import prepare_for_models, run_service

prepare_for_models()

from draft_service.drafters.base import Drafter  # noqa: E402
from draft_service.drafters.model import ModelDrafter  # noqa: E402
from draft_service.drafters.prompt_lookup import PromptLookupDrafter  # noqa: E402
from draft_service.server import DraftServicer  # noqa: E402
from draft_service.settings import PROMPT_LOOKUP, DraftSettings  # noqa: E402
from tandem.inference.loaded import UnsupportedModelError  # noqa: E402
from tandem.inference.serving import load_engine  # noqa: E402
from tandem.log import configure_logging  # noqa: E402
from tandem.rpc.server import Server  # noqa: E402
from tandem.settings import load_settings  # noqa: E402
from tandem.v1 import draft_pb2_grpc  # noqa: E402
from tandem.wire import model_info  # noqa: E402


def make_drafter(settings: DraftSettings) -> Drafter:
    """Loads what `--model` names. Raises ModelError, UnsupportedModelError or TokenizationError."""
    if settings.model == PROMPT_LOOKUP:
        return PromptLookupDrafter()
    served = load_engine(
        settings.model, settings.revision, dtype=settings.dtype, device=settings.device, threads=settings.threads
    )
    return ModelDrafter(served.engine, model_info(served))


async def serve(settings: DraftSettings) -> None:
    drafter = make_drafter(settings)
    server = Server(settings.host, settings.port, grace_seconds=settings.grace_seconds)
    server.add(draft_pb2_grpc.add_DraftServiceServicer_to_server, DraftServicer(drafter), "tandem.v1.DraftService")
    await drafter.start()
    try:
        await server.serve_forever(on_started=settings.announce)
    finally:
        await drafter.close()


def main() -> None:
    settings = load_settings(DraftSettings)
    configure_logging("draft", settings.log_level)
    run_service("draft_service", lambda: serve(settings), UnsupportedModelError)


if __name__ == "__main__":
    main()
