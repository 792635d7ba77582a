"""Within what time a caller of HTTP wants its answer: a header, as gRPC's deadline travels beside the message too.

A header and no parameter of the body, so that every route takes it alike, a proxy can set it without reading bodies,
and clients of OpenAI's API can set it once for all they ask.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.deadline import due
from orchestrator.gateway.errors import HttpError

HEADER = "x-request-timeout"
MOST_SECONDS = 86_400

_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")

#: For /openapi.json, at every route that takes a body.
PARAMETER = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": MOST_SECONDS},
    "description": "Seconds within which the whole answer is wanted, counted from the request's arrival. What is not"
    " done by then ends with status 504, or, once a stream has begun, with an error as its last event.",
}


class Timeouts:
    """ASGI middleware: what runs for a request has its deadline, see `orchestrator.deadline`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            seconds = _seconds(scope)
        except HttpError as error:
            await error.response()(scope, receive, send)
            return
        with due(seconds):
            await self._app(scope, receive, send)


def _seconds(scope: Scope) -> float | None:
    """None where the caller names no time. Raises HttpError."""
    values = [value.decode("latin-1").strip() for name, value in scope["headers"] if name == HEADER.encode()]
    if not values:
        return None
    if len(values) > 1 or not _SECONDS.fullmatch(values[0]) or not 0 < float(values[0]) <= MOST_SECONDS:
        told = ", ".join(values)[:64]
        raise HttpError.invalid(HEADER, f"must be a number of seconds above 0 and at most {MOST_SECONDS}, not {told!r}")
    return float(values[0])
