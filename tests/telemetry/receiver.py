"""A real receiver of traces: OpenTelemetry's TraceService over gRPC, which keeps what it is sent."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True, slots=True)
class Seen:
    """One span. service: as its resource names it. ids in hexadecimal; parent is empty for none."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, str | int | float]
    error: str
    began: int
    ended: int
    kind: str


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """endpoint: HOST:PORT."""

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self.endpoint = ""

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.aio.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            named = {each.key: _value(each.value) for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [_seen(str(named["service.name"]), span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Seen]:
        return [span for span in self.spans if span.name == name]

    def by_id(self) -> dict[str, Seen]:
        return {span.id: span for span in self.spans}


@asynccontextmanager
async def receiving() -> AsyncGenerator[Receiver]:
    receiver, server = Receiver(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    receiver.endpoint = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield receiver
    finally:
        await server.stop(None)


def _seen(service: str, span: Span) -> Seen:
    return Seen(
        service=service,
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        attributes={each.key: _value(each.value) for each in span.attributes},
        error=span.status.message,
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
    )


def _value(value: AnyValue) -> str | int | float:
    return getattr(value, value.WhichOneof("value"))
