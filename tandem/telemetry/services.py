"""The telemetry of the draft and of the target: sessions, calls, and the steps of the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, Protocol

from prometheus_client.registry import Collector

from tandem import __version__
from tandem.inference.observer import StepReport
from tandem.telemetry import catalogue, spans
from tandem.telemetry.calls import CallInterceptor, CallObserver
from tandem.telemetry.metric import Metric, Metrics
from tandem.telemetry.sessions import Session, SessionObserver
from tandem.telemetry.tracing import NO_TRACING, Tracing
from tandem.v1 import model_pb2

#: Spans of a stream and of a block.
_SPANS = {
    "draft": (spans.DRAFT_STREAM, spans.DRAFT_BLOCK),
    "target": (spans.TARGET_STREAM, spans.TARGET_BLOCK),
}


class Load(Protocol):
    """What an engine says of itself; see `EngineLoad`."""

    @property
    def sequences(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def cache_bytes(self) -> int: ...
    @property
    def cache_capacity_bytes(self) -> int: ...
    @property
    def preemptions(self) -> int: ...
    @property
    def prefix_tokens(self) -> int: ...
    @property
    def prefilled_tokens(self) -> int: ...


class ModelTelemetry(CallObserver, SessionObserver):
    """Of one draft or target service. It is an `EngineObserver`."""

    def __init__(
        self, service: Literal["draft", "target"], tracing: Tracing = NO_TRACING, *, is_read: bool = True
    ) -> None:
        """is_read: whether anybody can read the metrics; steps and calls are not noted otherwise."""
        self.service = service
        self.tracing = tracing
        self.is_read = is_read
        self.metrics = metrics = Metrics()
        metrics.gauge(catalogue.BUILD_INFO).labels(service, __version__).set(1)
        self._model = metrics.gauge(catalogue.MODEL_INFO)
        self._ended = metrics.counter(catalogue.ENDED_SESSIONS)
        self._refused = metrics.counter(catalogue.REFUSED_SESSIONS)
        self._rpc_seconds = metrics.histogram(catalogue.RPC_SECONDS)
        self._streams = metrics.counter(catalogue.STREAMS)
        self._step_seconds = metrics.histogram(catalogue.STEP_SECONDS).labels(service)
        self._step_tokens = metrics.histogram(catalogue.STEP_TOKENS).labels(service)
        self._step_sequences = metrics.histogram(catalogue.STEP_SEQUENCES).labels(service)
        self._queue_seconds = metrics.histogram(catalogue.QUEUE_SECONDS).labels(service)

    def serves(self, model: model_pb2.ModelInfo, load: Callable[[], Load]) -> None:
        """load: asked whenever the metrics are read, on another thread. To be called once."""
        self._model.labels(self.service, model.model_id, model.revision, model.dtype, model.weights).set(1)
        self.metrics.registry.register(_LoadCollector(self.service, load))

    def stepped(self, step: StepReport) -> None:
        self._step_seconds.observe(step.seconds)
        self._step_tokens.observe(step.tokens)
        self._step_sequences.observe(step.sequences)
        for seconds in step.waits:
            self._queue_seconds.observe(seconds)

    def call_ended(self, method: str, code: str, seconds: float, *, is_stream: bool) -> None:
        if not self.is_read:
            return
        if is_stream:
            self._streams.labels(self.service, method, code).inc()
        else:
            self._rpc_seconds.labels(self.service, method, code).observe(seconds)

    def interceptors(self) -> list[CallInterceptor]:
        """Of the service's server."""
        return [CallInterceptor(self, names_request=True)]

    def session(self, name: str) -> Session:
        """Around a stream, from its first message on. name: of the request, where the call did not say one."""
        stream, block = _SPANS[self.service]
        return Session(self, self.tracing.begin(stream), block, name)

    def session_ended(self, outcome: str) -> None:
        self._ended.labels(self.service, outcome).inc()

    def session_refused(self, reason: str) -> None:
        self._refused.labels(self.service, reason).inc()


class _LoadCollector(Collector):
    """Reads an engine's load when the metrics are read."""

    def __init__(self, service: str, load: Callable[[], Load]) -> None:
        self._service = service
        self._load = load

    def collect(self) -> Iterator:
        load = self._load()
        values: list[tuple[Metric, int]] = [
            (catalogue.SESSIONS, load.sequences),
            (catalogue.WAITING_BLOCKS, load.waiting),
            (catalogue.CACHE_BYTES, load.cache_bytes),
            (catalogue.CACHE_CAPACITY, load.cache_capacity_bytes),
            (catalogue.PREEMPTIONS, load.preemptions),
            (catalogue.PREFIX_TOKENS, load.prefix_tokens),
            (catalogue.PREFILLED_TOKENS, load.prefilled_tokens),
        ]
        for metric, value in values:
            yield metric.family((self._service,), value)
