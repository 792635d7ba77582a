"""Bytes that are no message of the expected type: the caller's mistake, which gRPC itself reports as INTERNAL."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from google.protobuf.message import DecodeError

from tandem.rpc.errors import TandemError


class Malformed:
    """Stands in the place of a message that cannot be read."""


_MALFORMED = Malformed()


def tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """As `deserialize`, but with a `Malformed` for bytes that it refuses."""

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _MALFORMED

    return read


def sound(request: Any) -> Any:
    """The message, or the stream of them. Raises TandemError INVALID_FIELD for a malformed one, where it comes."""
    if isinstance(request, Malformed):
        raise TandemError("INVALID_FIELD", "the request is no message of this method's type")
    return _sound_stream(request) if hasattr(request, "__aiter__") else request


async def _sound_stream(requests: AsyncIterator[Any]) -> AsyncGenerator[Any]:
    async for request in requests:
        yield sound(request)
