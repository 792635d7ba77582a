"""The HTTP face as one application."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from orchestrator.completions import Completions
from orchestrator.gateway.access import Access
from orchestrator.gateway.chat import ChatParameters
from orchestrator.gateway.connection import Gate
from orchestrator.gateway.errors import HttpError, answer_error, answer_http_exception
from orchestrator.gateway.health import health_router
from orchestrator.gateway.metrics import CountResponses, metrics_router
from orchestrator.gateway.native import native_router
from orchestrator.gateway.openai import openai_router
from orchestrator.gateway.openapi import describe
from orchestrator.gateway.page import add_page
from orchestrator.gateway.text import TextParameters
from orchestrator.gateway.timeouts import Timeouts
from orchestrator.keys import Keys
from orchestrator.settings import MAX_BODY_BYTES
from tandem import __version__
from tandem.rpc.errors import TandemError
from tandem.rpc.limits import MAX_STREAMS, CallLimit


def make_app(
    completions: Completions,
    *,
    keys: Keys | None = None,
    max_streams: int = MAX_STREAMS,
    max_body_bytes: int = MAX_BODY_BYTES,
    tells_metrics: bool = True,
) -> FastAPI:
    """All routes, on `completions`. `app.state.gate` is the Gate that ends them. keys: None asks nobody for one.
    tells_metrics: whether /metrics is one of the routes."""
    # No pages of documentation: they load their scripts from elsewhere.
    app = FastAPI(title="Tandem", version=__version__, docs_url=None, redoc_url=None)
    app.state.gate = gate = Gate()
    app.state.max_body_bytes = max_body_bytes
    app.include_router(openai_router(completions, gate))
    app.include_router(native_router(completions, gate))
    app.include_router(health_router(completions, gate))
    if tells_metrics:
        app.include_router(metrics_router(completions.telemetry))
    add_page(app)
    describe(app, [ChatParameters, TextParameters])
    for kind in (HttpError, TandemError, Exception):
        app.add_exception_handler(kind, answer_error)
    app.add_exception_handler(HTTPException, answer_http_exception)
    app.add_middleware(Timeouts)
    app.add_middleware(Access, keys=keys, limit=CallLimit(max_streams))
    app.add_middleware(CountResponses, telemetry=completions.telemetry)
    return app
