"""A server's calls: what their callers say of the request and its trace, and how they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from tandem.telemetry.context import receive

Handler: TypeAlias = grpc.RpcMethodHandler

_OURS = "/tandem.v1."
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
_BEHAVIORS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class CallObserver:
    """Told of every call of Tandem's own services; health and reflection are not among them."""

    def call_ended(self, method: str, code: str, seconds: float, *, is_stream: bool) -> None:
        """method: its name alone."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Stands outside of `ErrorInterceptor`, so that it sees the status that a call ends with.

    names_request: whether callers are services of Tandem, whose name for the request is taken.
    """

    def __init__(self, observer: CallObserver | None = None, *, names_request: bool) -> None:
        self._observer = observer
        self._names_request = names_request

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(_OURS):
            return handler
        metadata = tuple(handler_call_details.invocation_metadata or ())
        kind = next(name for name in _BEHAVIORS if getattr(handler, name) is not None)
        behavior = getattr(handler, kind)
        name, is_stream = method.rpartition("/")[2], kind != "unary_unary"

        async def watched(request: Any, context: grpc.aio.ServicerContext) -> Any:
            # A call has a task of its own, so that this holds for nothing else.
            receive(metadata, names_request=self._names_request)
            began, code = time.perf_counter(), "OK"
            try:
                return await behavior(request, context)
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except BaseException:
                code = _code(context)
                raise
            finally:
                if self._observer is not None:
                    self._observer.call_ended(name, code, time.perf_counter() - began, is_stream=is_stream)

        return handler._replace(**{kind: watched})


def _code(context: grpc.aio.ServicerContext) -> str:
    """Of a call that has failed."""
    code: Any = context.code()
    code = _CODES.get(code, "UNKNOWN") if isinstance(code, int) else getattr(code, "name", "UNKNOWN")
    return "UNKNOWN" if code == "OK" else code
