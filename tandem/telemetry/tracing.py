"""Traces: what is recorded of a request, where the operator has said where to send it.

Without an endpoint nothing is imported and every call here returns at once. What records is in `otlp.py`.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import ClassVar

from tandem.telemetry.context import Headers
from tandem.telemetry.metric import Service
from tandem.telemetry.spans import SpanName

#: What the extra `tracing` installs.
_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.grpc")


class Span:
    """A span that is not recorded, as all of those below it."""

    __slots__ = ()

    is_recorded: ClassVar[bool] = False

    @property
    def trace_id(self) -> str:
        """In hexadecimal; empty where none is recorded."""
        return ""

    def child(self, name: SpanName) -> Span:
        """Begins now."""
        return self

    def set(self, **attributes: str | int | float) -> None:
        """Of those that the span's name lists."""

    def end(self, *, error: str = "", **attributes: str | int | float) -> None:
        """Ends now. A span that is never ended is never seen. error: why it failed, in a word."""

    def headers(self) -> Headers | None:
        """What calls made inside carry; None where the caller's own are passed on."""
        return None


NO_SPAN = Span()


class Tracing:
    """Traces of one service; of this class, none."""

    def begin(self, name: SpanName) -> Span:
        """The first span of a request in this service, below the caller's where it sent one."""
        return NO_SPAN

    async def close(self) -> None:
        """Sends what is left, for a few seconds at most."""


NO_TRACING = Tracing()


def tracing_is_installed() -> bool:
    try:
        return all(find_spec(name) is not None for name in _PACKAGES)
    except ImportError:  # of a parent
        return False


def start_tracing(service: Service, endpoint: str | None, share: float) -> Tracing:
    """endpoint: None for no traces. share: of requests whose callers have not decided; in [0, 1]."""
    if endpoint is None:
        return NO_TRACING
    from tandem.telemetry.otlp import OtlpTracing

    return OtlpTracing(service, endpoint, share)
