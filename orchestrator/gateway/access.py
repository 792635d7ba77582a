"""Who may use the HTTP face, and how many at once."""

from __future__ import annotations

from contextlib import ExitStack

from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.access import calling
from orchestrator.gateway.errors import explain
from orchestrator.keys import Keys
from tandem.rpc.bearer import HEADER
from tandem.rpc.errors import TandemError
from tandem.rpc.limits import CallLimit

# For everybody at any time: what tells whether the service lives, and the page's own files, which hold nothing secret.
_FREE = ("/", "/healthz", "/openapi.json")
_FREE_BELOW = "/playground/"


class Access:
    """ASGI middleware: asks for a key where there are keys, and gives each request a place."""

    def __init__(self, app: ASGIApp, keys: Keys | None, limit: CallLimit) -> None:
        self._app = app
        self._keys = keys
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _FREE or scope["path"].startswith(_FREE_BELOW):
            await self._app(scope, receive, send)
            return
        with ExitStack() as stack:
            try:
                if self._keys is not None:
                    stack.enter_context(calling(self._keys.caller(_authorization(scope))))
                stack.enter_context(self._limit.place())
            except TandemError as error:
                await explain(error, scope["path"]).response()(scope, receive, send)
                return
            await self._app(scope, receive, send)


def _authorization(scope: Scope) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == HEADER.encode()]
