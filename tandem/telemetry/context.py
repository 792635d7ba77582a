"""Which request the running task works for, and which trace: for lines of the log, and told to other services.

Both are context variables: a task that is started for a request has them from the one that started it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar

#: Metadata of a call: names and values.
Headers = tuple[tuple[str, str], ...]

REQUEST_ID_KEY = "x-request-id"
_TRACE_KEYS = ("traceparent", "tracestate")
_MOST_ID = 128
_MOST_TRACE = 512

_request_id: ContextVar[str] = ContextVar("tandem_request_id", default="")
_trace: ContextVar[Headers] = ContextVar("tandem_trace", default=())


def request_id() -> str:
    """Of the request that is worked for; empty where there is none."""
    return _request_id.get()


def bind_request(name: str) -> None:
    """What is logged from here on concerns this request. A name that is none is left out."""
    if name and len(name) <= _MOST_ID and name.isascii() and name.isprintable():
        _request_id.set(name)


def trace_headers() -> Headers:
    """Those of W3C's Trace Context that the next call carries; the caller's where nothing was traced since."""
    return _trace.get()


def bind_trace(headers: Headers) -> None:
    _trace.set(headers)


def receive(metadata: Iterable[tuple[str, str | bytes]], *, names_request: bool) -> None:
    """Takes over what a caller said. names_request: whether the caller is a service of Tandem, whose name for the
    request is taken."""
    found = {key: value for key, value in metadata if key in (REQUEST_ID_KEY, *_TRACE_KEYS) and isinstance(value, str)}
    if names_request:
        bind_request(found.get(REQUEST_ID_KEY, ""))
    bind_trace(tuple((key, found[key]) for key in _TRACE_KEYS if _can_be_sent(found.get(key, ""))))


def outgoing() -> Headers:
    """Metadata of a call that is made for the request."""
    name = _request_id.get()
    return (((REQUEST_ID_KEY, name),) if name else ()) + _trace.get()


def _can_be_sent(value: str) -> bool:
    return 0 < len(value) <= _MOST_TRACE and value.isascii() and value.isprintable()
