"""/metrics, and what is seen of every HTTP request. What happens to a completion is counted where gRPC passes too."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.gateway.errors import CALLER_GONE
from tandem.telemetry import EXPOSITION_TYPE, Telemetry, context


def metrics_router(telemetry: Telemetry) -> APIRouter:
    router = APIRouter(tags=["Operation"])

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(telemetry.exposition(), headers={"content-type": EXPOSITION_TYPE})

    return router


class CountResponses:
    """ASGI middleware: every response by its route (as it is declared, so that there are few) and status. What a
    caller says of its trace is kept for the request's work."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # A request has a task of its own, so that this holds for nothing else.
        headers = ((key.decode("latin-1"), value.decode("latin-1")) for key, value in scope["headers"])
        context.receive(headers, names_request=False)
        status = CALLER_GONE

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            self._telemetry.http_responses.labels(_route(scope), str(status)).inc()


def _route(scope: Scope) -> str:
    route = getattr(scope.get("route"), "path", None)
    if route is None:
        route = "/playground" if scope["path"].startswith("/playground/") else "other"
    return route
