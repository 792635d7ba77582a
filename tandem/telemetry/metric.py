"""How a metric is declared, and how it becomes one of prometheus-client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

#: Content type of what `Metrics.exposition` gives.
EXPOSITION_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Service = Literal["orchestrator", "draft", "target"]


@dataclass(frozen=True, slots=True)
class Metric:
    """told: a sentence. on: the services that have it. buckets: upper bounds, of a histogram."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    told: str
    labels: tuple[str, ...]
    on: tuple[Service, ...]
    buckets: tuple[float, ...] = ()

    def family(self, labels: tuple[str, ...], value: float) -> CounterMetricFamily | GaugeMetricFamily:
        """One value of a counter or gauge, for a collector that is asked when it is read."""
        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family = kind(self.name, self.told, labels=self.labels)
        family.add_metric(labels, value)
        return family


class Metrics:
    """The metrics of one service, in a registry of their own: services of one process are not mixed up."""

    def __init__(self) -> None:
        # A series of its own for when each one began: twice as many lines for what nobody asks.
        disable_created_metrics()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

    def counter(self, metric: Metric) -> Counter:
        return Counter(metric.name, metric.told, metric.labels, registry=self.registry)

    def gauge(self, metric: Metric) -> Gauge:
        return Gauge(metric.name, metric.told, metric.labels, registry=self.registry)

    def histogram(self, metric: Metric) -> Histogram:
        return Histogram(metric.name, metric.told, metric.labels, buckets=metric.buckets, registry=self.registry)

    def exposition(self) -> bytes:
        """All of them as Prometheus reads them, of `EXPOSITION_TYPE`."""
        return generate_latest(self.registry)
