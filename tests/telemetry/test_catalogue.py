"""The catalogue is what the services expose, all of it, under names that Prometheus' users expect."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.inference.engine import EngineLoad
from tandem.rpc.errors import CODES, UNSPECIFIED, TandemError
from tandem.telemetry import Telemetry, fields, spans
from tandem.telemetry.catalogue import LABELS, METRICS
from tandem.telemetry.document import PAGE, document
from tandem.telemetry.metric import Metrics
from tandem.telemetry.rounds import RoundMetrics
from tandem.telemetry.services import ModelTelemetry
from tandem.telemetry.upstream import reason_of
from tandem.v1 import completion_pb2, model_pb2
from tests.contract.test_docs import rows
from tests.telemetry.reading import Reading

ROOT = Path(__file__).parents[2]
REMEDY = "docs/metrics.md does not match tandem/telemetry: run `make metrics` and commit the result"
#: What the last part of a name may be, of what is no counter; all in base units.
UNITS = ("_seconds", "_bytes", "_tokens", "_nats", "_info")
COUNTS = ("_sessions", "_blocks", "_sequences", "_in_progress", "_waiting", "_distance", "_threshold", "_replicas")


def exposed(service: str) -> dict[str, str]:
    """Kinds of all metrics of a service that has just started, but for those of its process."""
    if service == "orchestrator":
        metrics = Telemetry().metrics
    else:
        told = ModelTelemetry(service)  # type: ignore[arg-type]
        told.serves(model_pb2.ModelInfo(), lambda: EngineLoad(0, 0, 0, 0, 0))
        metrics = told.metrics
    kinds = Reading.of(metrics).kinds()
    assert "process_resident_memory_bytes" in kinds and "process_open_fds" in kinds
    return {name: kind for name, kind in kinds.items() if not name.startswith("process_")}


@pytest.mark.parametrize("service", ["orchestrator", "draft", "target"])
def test_a_service_exposes_its_metrics_and_no_others(service: str) -> None:
    assert exposed(service) == {metric.name: metric.kind for metric in METRICS if service in metric.on}


def test_names_are_prometheus_and_told() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS) > 40
    for metric in METRICS:
        name = metric.name
        assert name.startswith("tandem_") and ":" not in name and metric.told.endswith("."), name
        assert (metric.kind == "counter") == name.endswith("_total"), name
        assert metric.kind == "counter" or name.endswith(UNITS + COUNTS), name
        assert not any(unit in name for unit in ("milli", "micro", "_ms", "percent", "kilo", "mega")), name
        assert set(metric.labels) <= set(LABELS), name
        assert (metric.kind == "histogram") == bool(metric.buckets)
        assert list(metric.buckets) == sorted(set(metric.buckets)), name
        if "orchestrator" not in metric.on:
            assert metric.labels[0] == "service", name
    assert {label for metric in METRICS for label in metric.labels} == set(LABELS)


def test_spans_have_parents_that_there_are_and_attributes_that_are_told() -> None:
    names = {span.name for span in spans.SPANS}
    assert len(names) == len(spans.SPANS) == 14
    for span in spans.SPANS:
        assert span.name.startswith("tandem.") and span.told.endswith("."), span
        assert set(span.attributes) <= set(spans.ATTRIBUTES), span
        assert set(span.below.split(" or ")) <= names or span is spans.REQUEST, span
    assert {key for span in spans.SPANS for key in span.attributes} == set(spans.ATTRIBUTES)
    assert not any("text" in key or key == "prompt" for key in spans.ATTRIBUTES)


def test_positions_and_reasons_are_few_whatever_comes() -> None:
    metrics = Metrics()
    rounds = RoundMetrics(metrics).of("fixed", "exact")
    for drafted in (1, 16, 17, 64):
        values = [0.5] * drafted
        rounds.verified(drafted=drafted, kept=drafted, let_through=0, entropies=values, distances=())
    found = Reading.of(metrics)
    assert found.labels("position") == {*map(str, range(1, 17)), "17+"}
    assert found("tandem_verified_position_total", position="1") == 4
    assert found("tandem_verified_position_total", position="17+") == 1 + 48
    errors = [TandemError(reason, "x" * index) for index, reason in enumerate(CODES)]
    assert {reason_of(error) for error in errors} == {reason.lower() for reason in CODES}
    code = CODES["OVERLOADED"]
    assert reason_of(TandemError("NEW_REASON", "of a later version", code=code)) == "other"
    assert reason_of(TandemError(UNSPECIFIED, "from the transport", code=code)) == "resource_exhausted"
    assert reason_of(ValueError("what a caller sent")) == "internal"


def test_parts_are_those_of_the_contract() -> None:
    metrics = Metrics()
    time = completion_pb2.RoundTime()
    names = [field.name for field in time.DESCRIPTOR.fields]
    for number, name in enumerate(names, 1):
        setattr(time, name, number * 1_000_000)
    RoundMetrics(metrics).of("fixed", "exact").ended(time, 3.0, drafted=1)
    found = Reading.of(metrics)
    parts = {name.removesuffix("_microseconds"): number for number, name in enumerate(names, 1)}
    assert {part: found("tandem_round_seconds_total", part=part) for part in found.labels("part")} == parts
    assert found("tandem_round_duration_seconds_sum") == 3.0


def test_the_page_is_fresh(tmp_path: Path) -> None:
    assert document(tmp_path).read_bytes() == (ROOT / PAGE).read_bytes(), REMEDY


def test_every_metric_span_and_field_has_its_line() -> None:
    told = {heading: {row[0].strip("`"): row[1:] for row in lines} for heading, lines in rows(ROOT / PAGE).items()}
    assert set(told["Metrics"]) == {metric.name for metric in METRICS}
    for metric in METRICS:
        kind, labels, on, meaning = told["Metrics"][metric.name]
        assert (kind, meaning) == (metric.kind, metric.told)
        assert labels == ", ".join(f"`{label}`" for label in metric.labels) and on == ", ".join(metric.on)
    assert set(told["Labels"]) == set(LABELS)
    assert set(told["Spans"]) == {span.name for span in spans.SPANS}
    assert set(told["Attributes"]) == set(spans.ATTRIBUTES)
    assert set(told["Log"]) == {*fields.EVERY_LINE, *fields.COMPLETION, *fields.SESSION}
    assert all(all(cell for cell in cells[2:]) for lines in told.values() for cells in lines.values())
