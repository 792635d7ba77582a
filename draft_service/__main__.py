"""`python -m draft_service`: starts one draft service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from draft_service.settings import PROMPT_LOOKUP, DraftSettings
from tandem.inference.parallel.place import check_alone
from tandem.log import configure_logging
from tandem.rpc.draining import HandOver
from tandem.rpc.server import Server
from tandem.serving import prepare_for_models, run_service
from tandem.settings import load_settings
from tandem.telemetry.running import exposed
from tandem.telemetry.services import ModelTelemetry
from tandem.telemetry.tracing import start_tracing
from tandem.v1 import draft_pb2_grpc

if TYPE_CHECKING:
    from draft_service.drafters.base import Drafter
    from tandem.grammars import Grammars

# A completion that loses its draft goes on at once, and speculates again with another: nothing is won by waiting.
_HAND_OVER = HandOver(0.0, 0.5)

# Functions import what imports torch, which takes seconds: a mistyped flag does not wait for it.


def make_drafter(settings: DraftSettings) -> tuple[Drafter, Grammars | None]:
    """Loads what `--model` names, and the grammars of its tokenizer, None where it has none. Raises ModelError or
    TokenizationError."""
    if settings.model == PROMPT_LOOKUP:
        from draft_service.drafters.prompt_lookup import PromptLookupDrafter

        return PromptLookupDrafter(), None
    from draft_service.drafters.model import ModelDrafter
    from draft_service.pairing import read_target, translating
    from tandem.inference.serving import load_engine
    from tandem.wire import model_info

    target = read_target(settings.for_target, settings.for_target_revision) if settings.for_target else None
    served = load_engine(settings.model, settings.revision, keeps_turns=True, **settings.engine_options())
    if target is not None and (drafter := translating(served, target)) is not None:
        return drafter, target.grammars
    return ModelDrafter(served.engine, model_info(served), sayable=served.loaded.sayable), served.grammars


async def serve(settings: DraftSettings) -> None:
    """Serves until SIGTERM or SIGINT. Raises ModelError, TokenizationError or ListenError before it listens."""
    check_alone("draft")
    tracing = start_tracing("draft", settings.otlp_endpoint, settings.trace_share)
    telemetry = ModelTelemetry("draft", tracing, is_read=settings.metrics_port is not None)
    async with exposed(settings, telemetry.metrics, tracing):
        await _serve(settings, telemetry)


async def _serve(settings: DraftSettings, telemetry: ModelTelemetry) -> None:
    from draft_service.server import DraftServicer

    drafter, grammars = make_drafter(settings)
    options = settings.server_options()
    server = Server(settings.host, settings.port, hand_over=_HAND_OVER, observers=telemetry.interceptors(), **options)
    servicer = DraftServicer(drafter, grammars, telemetry)
    server.add(draft_pb2_grpc.add_DraftServiceServicer_to_server, servicer, "tandem.v1.DraftService")
    await drafter.start()
    try:
        await server.serve_forever(on_started=settings.announce)
    finally:
        await drafter.close()


def main() -> None:
    settings = load_settings(DraftSettings)
    configure_logging("draft", settings.log_level, settings.log_format)
    prepare_for_models()
    run_service("draft_service", lambda: serve(settings))


if __name__ == "__main__":
    main()
