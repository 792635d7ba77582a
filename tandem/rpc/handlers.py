"""What interceptors make of a method's handler. Both leave it to `interceptor.py` to send what is raised."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing
from typing import Any, NoReturn

import grpc

from tandem.rpc.errors import TandemError

#: Health is asked by whoever starts, watches and balances services: it needs no key and no place.
HEALTH = "/grpc.health.v1.Health/"


def within(handler: grpc.RpcMethodHandler, around: Callable[[], AbstractContextManager[object]]) -> Any:
    """The same handler, each call of which runs inside `around()`, from its first message to its end."""
    behavior: Callable[..., Any]
    if handler.response_streaming:
        behavior = _stream(handler.stream_stream or handler.unary_stream, around)
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_stream_rpc_method_handler
        )
    else:
        behavior = _unary(handler.stream_unary or handler.unary_unary, around)
        make = (
            grpc.stream_unary_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler
        )
    return make(behavior, handler.request_deserializer, handler.response_serializer)


def refusing(error: TandemError) -> Any:
    """A handler that answers `error` before it has read anything: nobody is to send megabytes only to be refused."""

    async def refuse(requests: Any, context: grpc.aio.ServicerContext) -> NoReturn:
        raise error

    # Whatever the method is: on the wire, each kind is a stream of messages.
    return grpc.stream_stream_rpc_method_handler(refuse)


def _unary(
    behavior: Callable[..., Awaitable[Any]], around: Callable[[], AbstractContextManager[object]]
) -> Callable[..., Awaitable[Any]]:
    async def unary(request: Any, context: grpc.aio.ServicerContext) -> Any:
        with around():
            return await behavior(request, context)

    return unary


def _stream(
    behavior: Callable[..., Any], around: Callable[[], AbstractContextManager[object]]
) -> Callable[..., AsyncGenerator[Any]]:
    """Of both styles of grpc.aio: generators, and coroutines that call `context.write`."""

    async def stream(request: Any, context: grpc.aio.ServicerContext) -> AsyncGenerator[Any]:
        with around():
            responses = behavior(request, context)
            if not hasattr(responses, "__aiter__"):
                await responses
                return
            async with aclosing(responses):
                async for response in responses:
                    yield response

    return stream
