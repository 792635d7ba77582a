"""Replicas, errors between the services, and what runs."""

from __future__ import annotations

from typing import Any

from deploy.grafana.panels import Query, graph, listing
from deploy.grafana.queries import gauge, of_processes, quantile, rate, select

TITLE = "Replicas, errors, versions"

_LEGEND = "{{service}} {{instance}}"


def panels() -> list[Any]:
    each = ("instance", "service", "state")
    return [
        graph(
            "Replicas as orchestrators see them",
            "By state. ready: used. failed: does not answer, or its streams fail again and again. mismatched: its"
            " model, tokenizer or protocol version does not fit the others, so that it is left aside.",
            Query(gauge("tandem_upstream_replicas", by=each), "{{service}} {{state}}, by {{instance}}"),
            unit="none", nothing="No orchestrator is scraped",
        ),
        graph(
            "Errors of draft and target",
            "As the orchestrator got them, a second; and completions that lost their target after they had begun and"
            " went on at another or at the same one again.",
            Query(rate("tandem_upstream_errors_total", by=("service", "reason")), "{{service}} {{reason}}"),
            Query(rate("tandem_target_takeovers_total"), "taken over by another target"),
            unit="none", nothing="Draft and target have failed nobody in this time",
        ),
        graph(
            "Answers of draft and target",
            "95th percentile of the time from asking to the whole answer, as the orchestrator sees it.",
            Query(quantile(0.95, "tandem_upstream_seconds", by=("service", "method")), "{{service}} {{method}}"),
            unit="s", nothing="Nothing has been asked in this time",
        ),
        graph(
            "Processor time",
            "Cores that each process keeps busy.",
            Query(of_processes("rate(process_cpu_seconds_total[$__rate_interval])"), _LEGEND),
            unit="none", nothing="No service is scraped",
        ),
        graph(
            "Memory",
            "Resident memory of each process, without that of a GPU.",
            Query(of_processes("process_resident_memory_bytes"), _LEGEND),
            unit="bytes", nothing="No service is scraped",
        ),
        graph(
            "Open files and connections",
            "Of each process.",
            Query(of_processes("process_open_fds"), _LEGEND),
            unit="none", nothing="No service is scraped",
        ),
        listing(
            "Versions",
            "What runs where. During a rolling upgrade two versions of a service may be seen.",
            Query(select("tandem_build_info")),
            columns={"service": "Service", "instance": "Instance", "version": "Version"},
            width=8, nothing="No service is scraped",
        ),
        listing(
            "Models",
            "What each draft and target serves, and how its weights are held.",
            # Orchestrators tell of the models that they work with, too.
            Query(f"{select('tandem_model_info')} and on (service, instance) {select('tandem_build_info')}"),
            columns={
                "service": "Service", "instance": "Instance", "model_id": "Model", "revision": "Revision",
                "dtype": "Type", "weights": "Weights",
            },
            width=8, nothing="No draft or target is scraped",
        ),
    ]  # fmt: skip
