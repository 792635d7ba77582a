"""The orchestrator's telemetry: requests, and what their completions' rounds and the services behind them add up to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from tandem import __version__
from tandem.telemetry import catalogue, spans
from tandem.telemetry.calls import CallInterceptor
from tandem.telemetry.metric import Metrics
from tandem.telemetry.rounds import RoundMetrics
from tandem.telemetry.tracing import NO_TRACING, Span, Tracing
from tandem.telemetry.upstream import UpstreamCalls, UpstreamMetrics, reason_of
from tandem.v1 import completion_pb2, model_pb2


class Telemetry:
    """Of one orchestrator."""

    def __init__(self, tracing: Tracing = NO_TRACING, *, is_read: bool = True) -> None:
        """is_read: whether anybody can read the metrics; rounds are not noted otherwise."""
        self.tracing = tracing
        self.is_read = is_read
        self.metrics = metrics = Metrics()
        metrics.gauge(catalogue.BUILD_INFO).labels("orchestrator", __version__).set(1)
        self._models = metrics.gauge(catalogue.MODEL_INFO)
        self._known: dict[str, model_pb2.ModelInfo] = {}
        self.requests = metrics.counter(catalogue.REQUESTS)
        self.requests_under_way = metrics.gauge(catalogue.REQUESTS_IN_PROGRESS)
        self._key_refusals = metrics.counter(catalogue.KEY_REFUSALS)
        self.http_responses = metrics.counter(catalogue.HTTP_RESPONSES)
        self.first_token = metrics.histogram(catalogue.FIRST_TOKEN)
        self.each_token = metrics.histogram(catalogue.EACH_TOKEN)
        self.whole = metrics.histogram(catalogue.REQUEST_DURATION)
        self.mean_block = metrics.histogram(catalogue.MEAN_BLOCK)
        self.prompt_tokens = metrics.counter(catalogue.PROMPT_TOKENS)
        self.completion_tokens = metrics.counter(catalogue.COMPLETION_TOKENS)
        self.draft_failures = metrics.counter(catalogue.DRAFT_FAILURES)
        self.takeovers = metrics.counter(catalogue.TARGET_TAKEOVERS)
        self.rounds = RoundMetrics(metrics)
        self.upstream = UpstreamMetrics(metrics)
        self._replicas = metrics.gauge(catalogue.REPLICAS)
        self._waiting = metrics.gauge(catalogue.REQUESTS_WAITING)

    @contextmanager
    def request(self, route: str, is_late: Callable[[], bool] = lambda: False) -> Iterator[RequestRecord]:
        """Around one request to `Completions`, on whichever face it came. is_late: whether its caller's time is over;
        gRPC cancels it then, as if the caller had left."""
        under_way = self.requests_under_way.labels(route)
        under_way.inc()
        span = self.tracing.begin(spans.REQUEST)
        outcome, failed = "cancelled", ""  # closed early, or cancelled
        try:
            yield RequestRecord(self, span)
            outcome = "ok"
        except Exception as error:
            outcome = failed = reason_of(error)
            raise
        except asyncio.CancelledError:
            if is_late():
                outcome = failed = "DEADLINE_EXCEEDED"
            raise
        finally:
            under_way.dec()
            self.requests.labels(route, outcome).inc()
            span.end(error=failed, route=route, outcome=outcome)

    def interceptors(self) -> list[CallInterceptor]:
        """Of the server: what callers say of their traces."""
        return [CallInterceptor(names_request=False)]

    def key_refused(self, reason: str) -> None:
        """A request, for its API key or by a limit of it."""
        self._key_refusals.labels(reason).inc()

    def calls(self, service: str) -> list[UpstreamCalls]:
        """Interceptors of channels to a service, `draft` or `target`."""
        return [UpstreamCalls(self.upstream, service)] if self.is_read else []

    def works_with(self, service: str, model: model_pb2.ModelInfo) -> None:
        """What a service says that it runs; it may come back with something else."""
        known = self._known.get(service)
        if known is model or known == model:
            return
        self._known[service] = model
        if known is not None:
            self._models.remove(service, known.model_id, known.revision, known.dtype, known.weights)
        self._models.labels(service, model.model_id, model.revision, model.dtype, model.weights).set(1)

    def follow_replicas(self, count: Callable[[str, str], int]) -> None:
        """count: how many there are of a service in a state; asked whenever the metrics are read."""
        for service in ("draft", "target"):
            for state in ("ready", "failed", "mismatched"):
                self._replicas.labels(service, state).set_function(partial(count, service, state))

    def follow_line(self, waiting: Callable[[], int]) -> None:
        """waiting: how many requests wait to be begun; asked whenever the metrics are read."""
        self._waiting.set_function(waiting)

    def exposition(self) -> bytes:
        """All metrics, as `EXPOSITION_TYPE`."""
        return self.metrics.exposition()


class RequestRecord:
    """What is seen of one request while it is answered. span: of the request."""

    def __init__(self, telemetry: Telemetry, span: Span) -> None:
        self.span = span
        self._telemetry = telemetry
        self._arrived = time.perf_counter()
        self._first_token: dict[int, float] = {}  # by choice
        self._tokens: dict[int, int] = {}  # made here, by choice

    def saw(self, response: completion_pb2.CompleteResponse) -> None:
        if response.token_ids:
            self._telemetry.completion_tokens.inc(len(response.token_ids))
            self._first_token.setdefault(response.choice, time.perf_counter())
            self._tokens[response.choice] = self._tokens.get(response.choice, 0) + len(response.token_ids)
        if response.HasField("finish"):
            self._ended(response.choice, response.finish)

    def _ended(self, choice: int, finish: completion_pb2.Finish) -> None:
        told, usage, report = self._telemetry, finish.usage, finish.speculation
        policy = report.stop_rule, report.accept_rule
        now = time.perf_counter()
        first = self._first_token.get(choice, now)
        told.first_token.labels(*policy).observe(first - self._arrived)
        told.whole.labels(*policy).observe(now - self._arrived)
        if (tokens := self._tokens.get(choice, 0)) > 1:
            told.each_token.labels(*policy).observe((now - first) / (tokens - 1))
        if report.verify_steps:
            told.mean_block.labels(*policy).observe(report.drafted_tokens / report.verify_steps)
        if choice == 0:  # the choices share one prompt
            told.prompt_tokens.inc(usage.prompt_tokens)
        told.draft_failures.inc(report.draft_failures)
        told.rounds.of(*policy).thresholds(report)
