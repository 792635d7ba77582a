"""What the orchestrator sees of the services behind it: how long they take to answer, and how they fail."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc
from prometheus_client import Histogram

from tandem.rpc.errors import CODES, UNSPECIFIED, TandemError
from tandem.telemetry import catalogue
from tandem.telemetry.metric import Metrics


def reason_of(error: BaseException | None) -> str:
    """As labels have it: the reason of an error of the catalogue, or the status of one that no Tandem service made."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if not isinstance(error, TandemError):
        return "internal"
    if error.reason == UNSPECIFIED:
        return error.code.name.lower()
    # A service of another version may know reasons that this one does not.
    return error.reason.lower() if error.reason in CODES else "other"


class UpstreamMetrics:
    """Of all calls and of the messages of streams."""

    def __init__(self, metrics: Metrics) -> None:
        self._seconds = metrics.histogram(catalogue.UPSTREAM_SECONDS)
        self._errors = metrics.counter(catalogue.UPSTREAM_ERRORS)
        self._series: dict[tuple[str, str], Histogram] = {}

    def answered(self, service: str, method: str, seconds: float) -> None:
        key = service, method
        if key not in self._series:
            self._series[key] = self._seconds.labels(*key)
        self._series[key].observe(seconds)

    def failed(self, service: str, reason: str) -> None:
        """reason: see `reason_of`."""
        self._errors.labels(service, reason).inc()


class UpstreamCalls(grpc.aio.UnaryUnaryClientInterceptor):
    """Notes how long the unary calls of channels to one service take; their streams are noted message by message,
    elsewhere. The calls ask replicas, again and again, whether they are there: one that does not answer is counted
    among the replicas that have failed, and not with each question."""

    def __init__(self, metrics: UpstreamMetrics, service: str) -> None:
        self._metrics = metrics
        self._service = service

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        began = time.perf_counter()
        call = await continuation(client_call_details, request)
        with suppress(grpc.aio.AioRpcError):  # whoever reads the call's answer is told
            await call
            self._metrics.answered(self._service, _method(client_call_details.method), time.perf_counter() - began)
        return call


def _method(path: str | bytes) -> str:
    """The last part of `/tandem.v1.TargetService/GetTargetModel`."""
    text = path.decode() if isinstance(path, bytes) else path
    return text.rpartition("/")[2]
