"""Traces by OpenTelemetry's SDK, sent over OTLP by gRPC. Imported only where there is an endpoint to send them to.

A span is made whole when it ends, since all that is told of it is known then: that costs less than half of one of the
SDK's own, which are built to be changed by anyone while they last.
"""

from __future__ import annotations

import asyncio
import threading
import time

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, format_trace_id
from opentelemetry.trace.propagation import get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.trace.span import NonRecordingSpan

from tandem import __version__
from tandem.telemetry.context import Headers, trace_headers
from tandem.telemetry.metric import Service
from tandem.telemetry.spans import PREFIX, SpanName
from tandem.telemetry.tracing import Span, Tracing

_KINDS = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
_SCOPE = InstrumentationScope("tandem", __version__)
_FINE = Status(StatusCode.UNSET)
# Of one batch. What cannot be sent by then is lost; the log says so.
_SEND_SECONDS = 5.0
_LAST_SECONDS = 3.0
_PROPAGATOR = TraceContextTextMapPropagator()


class _Resource(Resource):
    """Looked up for each span that is sent; the SDK's own is written out as JSON every time for that."""

    def __hash__(self) -> int:
        return id(self)


class OtlpTracing(Tracing):
    """endpoint: HOST:PORT or http:// for plain text, https:// for TLS with the system's authorities (or what the
    environment's OTEL_EXPORTER_OTLP_* say). Resource attributes come from OTEL_RESOURCE_ATTRIBUTES besides."""

    def __init__(self, service: Service, endpoint: str, share: float) -> None:
        address = endpoint.removeprefix("http://").removeprefix("https://").rstrip("/")
        exporter = OTLPSpanExporter(
            endpoint=address,
            insecure=not endpoint.startswith("https://"),
            timeout=_SEND_SECONDS,
            channel_options=(("grpc.enable_http_proxy", 0),),  # type: ignore[arg-type]  # gRPC takes numbers
        )
        self.processor = BatchSpanProcessor(exporter)
        told = Resource.create({SERVICE_NAME: f"tandem-{service}", SERVICE_VERSION: __version__})
        self.resource = _Resource(told.attributes, told.schema_url)
        self.ids = RandomIdGenerator()
        self._sampler = ParentBased(TraceIdRatioBased(share))

    def begin(self, name: SpanName) -> Span:
        context = _PROPAGATOR.extract(dict(trace_headers()))
        parent = get_current_span(context).get_span_context()
        trace_id = parent.trace_id if parent.is_valid else self.ids.generate_trace_id()
        decided = self._sampler.should_sample(context, trace_id, name.name)
        flags = TraceFlags(TraceFlags.SAMPLED if decided.decision.is_sampled() else TraceFlags.DEFAULT)
        own = SpanContext(trace_id, self.ids.generate_span_id(), False, flags, decided.trace_state)
        if not flags.sampled:
            return _Unsampled(own)
        return _Recorded(self, name, own, parent if parent.is_valid else None)

    async def close(self) -> None:
        # On a thread that nobody has to wait for: with nobody to send to it takes as long as all its attempts.
        closing = threading.Thread(target=self.processor.shutdown, name="tandem-traces", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, _LAST_SECONDS)


class _Unsampled(Span):
    """Records nothing, and tells the other services to do the same."""

    __slots__ = ("_context",)

    def __init__(self, context: SpanContext) -> None:
        self._context = context

    def headers(self) -> Headers:
        return _headers(self._context)


class _Recorded(Span):
    __slots__ = ("_attributes", "_context", "_name", "_parent", "_started", "_tracing")

    is_recorded = True

    def __init__(self, tracing: OtlpTracing, name: SpanName, context: SpanContext, parent: SpanContext | None) -> None:
        self._tracing = tracing
        self._name = name
        self._context = context
        self._parent = parent
        self._attributes: dict[str, str | int | float] = {}
        self._started = time.time_ns()

    @property
    def trace_id(self) -> str:
        return format_trace_id(self._context.trace_id)

    def child(self, name: SpanName) -> Span:
        above = self._context
        span_id = self._tracing.ids.generate_span_id()
        own = SpanContext(above.trace_id, span_id, False, above.trace_flags, above.trace_state)
        return _Recorded(self._tracing, name, own, above)

    def set(self, **attributes: str | int | float) -> None:
        for key, value in attributes.items():
            self._attributes[PREFIX + key] = value

    def end(self, *, error: str = "", **attributes: str | int | float) -> None:
        self.set(**attributes)
        span = ReadableSpan(
            self._name.name,
            context=self._context,
            parent=self._parent,
            resource=self._tracing.resource,
            attributes=self._attributes,
            kind=_KINDS[self._name.kind],
            status=Status(StatusCode.ERROR, error) if error else _FINE,
            start_time=self._started,
            end_time=time.time_ns(),
            instrumentation_scope=_SCOPE,
        )
        self._tracing.processor.on_end(span)

    def headers(self) -> Headers:
        return _headers(self._context)


def _headers(context: SpanContext) -> Headers:
    carrier: dict[str, str] = {}
    span = NonRecordingSpan(context)
    _PROPAGATOR.inject(carrier, set_span_in_context(span))
    return tuple(carrier.items())
