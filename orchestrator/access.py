"""API keys on the gRPC face. HTTP has the same in `gateway/access.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from orchestrator.keys import CALLER, Caller, Keys
from tandem.rpc.bearer import HEADER
from tandem.rpc.errors import TandemError
from tandem.rpc.handlers import HEALTH, refusing, within


class KeyInterceptor(grpc.aio.ServerInterceptor):
    """Lets calls with a valid key through, and those for health. Reflection needs a key as any other service."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(HEALTH):
            return handler
        metadata = handler_call_details.invocation_metadata or ()
        try:
            caller = self._keys.caller([str(value) for name, value in metadata if name == HEADER])
        except TandemError as error:
            return refusing(error)
        return within(handler, lambda: calling(caller))


@contextmanager
def calling(caller: Caller) -> Iterator[None]:
    """What runs inside is for `caller`."""
    token = CALLER.set(caller)
    try:
        yield
    finally:
        CALLER.reset(token)
