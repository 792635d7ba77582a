"""Bodies of requests: JSON, read within bounds. What cannot be read is the caller's mistake, and told as such."""

from __future__ import annotations

import asyncio
from email.message import Message
from typing import Any

from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from orchestrator.deadline import DEADLINE
from orchestrator.gateway.errors import CALLER_GONE, HttpError
from tandem.rpc.errors import TandemError


async def read_json(request: Request) -> dict[str, Any]:
    """The body, an object. Raises HttpError, or TandemError DEADLINE_EXCEEDED where it does not come in time."""
    _check_type(request.headers.get("content-type", ""))
    data = await _read(request)
    try:
        # Not Python's own reader: this one refuses NaN, lone surrogates and more than 200 levels.
        value = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise HttpError.invalid(None, f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise HttpError.invalid(None, "the body must be a JSON object")
    return value


def _check_type(header: str) -> None:
    """Only JSON that says so: other types are sent by web pages of anyone, without asking."""
    message = Message()
    message["content-type"] = header
    if not header or message.get_content_type() != "application/json":
        said = "none" if not header else repr(header)
        raise HttpError.invalid(None, f"send the header content-type: application/json, not {said}")


async def _read(request: Request) -> bytes:
    length = request.headers.get("content-length", "0")
    most: int = request.app.state.max_body_bytes
    if not length.isdigit() or int(length[:20]) > most:
        raise _too_large(most)
    data = bytearray()
    try:
        async with asyncio.timeout(DEADLINE.get().left()):
            async for piece in request.stream():
                data += piece
                if len(data) > most:
                    raise _too_large(most)
    except ClientDisconnect as error:
        raise HttpError(CALLER_GONE, "the caller has left", code=None) from error
    except TimeoutError as error:
        raise TandemError.deadline_exceeded() from error
    return bytes(data)


def _too_large(most: int) -> HttpError:
    return HttpError(413, f"the body has more than {most} bytes (--max-body-bytes)", code="body_too_large")
