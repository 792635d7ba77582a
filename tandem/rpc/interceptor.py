"""Server side of the error catalogue: what a handler raises becomes the status that the caller sees."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from tandem.rpc.errors import UNSPECIFIED, TandemError
from tandem.rpc.malformed import sound, tolerant
from tandem.rpc.patience import OPENING_SECONDS, READING_SECONDS, NotReadError, read, spoken

_log = logging.getLogger(__name__)

_NOT_READ = grpc.StatusCode.DEADLINE_EXCEEDED

Handler: TypeAlias = grpc.RpcMethodHandler


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Sends `TandemError` as a rich status; anything else that a handler raises as INTERNAL, trace logged.

    A peer that opens a stream and says nothing, or leaves unread what it is sent, is waited for only so long.

    Cancellation, `context.abort` and failures of the connection itself pass through untouched. A generator
    of responses is closed before its RPC ends, so its `finally` runs at once when a caller goes away.
    """

    def __init__(self, *, opening_seconds: float = OPENING_SECONDS, reading_seconds: float = READING_SECONDS) -> None:
        """opening_seconds: for the first message of a stream. reading_seconds: for what is sent to be read."""
        self._opening_seconds = opening_seconds
        self._reading_seconds = reading_seconds

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:  # unknown method; grpc answers UNIMPLEMENTED
            return None
        method = handler_call_details.method
        if handler.response_streaming:
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            behavior = _guard_stream(
                method, handler.stream_stream or handler.unary_stream, self._opening_seconds, self._reading_seconds
            )
        else:
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            behavior = _guard_unary(method, handler.stream_unary or handler.unary_unary)
        deserialize = handler.request_deserializer
        return make(behavior, deserialize and tolerant(deserialize), handler.response_serializer)


def _guard_unary(method: str, behavior: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def guarded(request: Any, context: grpc.aio.ServicerContext) -> Any:
        try:
            return await behavior(sound(request), context)
        except Exception as error:
            await _abort(method, context, error)

    return guarded


def _guard_stream(
    method: str, behavior: Callable[..., Any], opening_seconds: float, reading_seconds: float
) -> Callable[..., Awaitable[None]]:
    """Handles both styles of grpc.aio: generators, and coroutines that call `context.write`."""

    async def guarded(request: Any, context: grpc.aio.ServicerContext) -> None:
        try:
            said = sound(request)
            if hasattr(said, "__aiter__"):
                said = spoken(said, opening_seconds)
            responses = behavior(said, context)
        except Exception as error:
            await _abort(method, context, error)
        if not hasattr(responses, "__aiter__"):
            try:
                await responses
            except Exception as error:
                await _abort(method, context, error)
            return
        async with aclosing(responses):
            while True:
                try:
                    response = await anext(responses)
                except StopAsyncIteration:
                    return
                except Exception as error:
                    await _abort(method, context, error)
                # Outside of the try: a caller that has gone is grpc's matter, not an error of the handler.
                try:
                    await read(context, response, reading_seconds)
                except NotReadError as error:
                    _log.warning("%s: a peer has not read what it was sent for %s; its call ends", method, error)
                    break
        # Where that is not read either, it waits until the peer has gone; all that was held is free by now.
        await _abort(method, context, TandemError(UNSPECIFIED, "what was sent was not read", code=_NOT_READ))

    return guarded


async def _abort(method: str, context: grpc.aio.ServicerContext, error: Exception) -> None:
    if isinstance(error, grpc.aio.BaseError) and not isinstance(error, grpc.aio.UsageError):
        raise error  # aborted by the handler itself, or the stream broke under it: grpc's matter
    if not isinstance(error, TandemError):
        _log.error("%s: unexpected error", method, exc_info=error)
        error = TandemError.internal()
    elif error.code is grpc.StatusCode.INTERNAL:
        _log.error("%s: %s", method, error, exc_info=error)
    await context.abort_with_status(error.to_status())
