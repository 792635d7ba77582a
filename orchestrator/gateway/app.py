"""The HTTP face as one application."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from orchestrator.completions import Completions
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
from tandem import __version__
from tandem.rpc.errors import TandemError


def make_app(completions: Completions) -> FastAPI:
    """All routes, on `completions`. `app.state.gate` is the Gate that ends them."""
    # No pages of documentation: they load their scripts from elsewhere.
    app = FastAPI(title="Tandem", version=__version__, docs_url=None, redoc_url=None)
    app.state.gate = gate = Gate()
    app.include_router(openai_router(completions, gate))
    app.include_router(native_router(completions, gate))
    app.include_router(health_router(completions, gate))
    app.include_router(metrics_router(completions.telemetry))
    add_page(app)
    describe(app, [ChatParameters, TextParameters])
    for kind in (HttpError, TandemError, Exception):
        app.add_exception_handler(kind, answer_error)
    app.add_exception_handler(HTTPException, answer_http_exception)
    app.add_middleware(CountResponses, telemetry=completions.telemetry)
    return app
