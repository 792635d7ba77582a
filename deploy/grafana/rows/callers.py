"""What callers see."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.models.common import StackingMode

from deploy.grafana.panels import Query, graph
from deploy.grafana.queries import BY_POLICY, POLICY, gauge, quantile, rate

TITLE = "Callers"

_NONE_ENDED = "No completion has ended in this time"


def panels() -> list[Any]:
    return [
        _times("First token", "tandem_time_to_first_token_seconds",
               "From a request's arrival to the first token. The objective is 2 s for 99 %."),
        _times("Each further token", "tandem_time_per_output_token_seconds",
               "Mean time between the tokens of a completion. The objective is 0.2 s for 99 %."),
        graph(
            "Requests",
            "By how they ended: ok, cancelled by the caller, or the reason of the error.",
            Query(rate("tandem_requests_total", by=("outcome",)), "{{outcome}}"),
            unit="reqps", stack=StackingMode.NORMAL, colours={"ok": "green", "cancelled": "text"},
            nothing="No request has ended in this time",
        ),
        graph(
            "HTTP responses",
            "By status. 499: the caller left first. 429: no room, with the time after which to come back.",
            Query(rate("tandem_http_responses_total", by=("status",)), "{{status}}"),
            unit="reqps", stack=StackingMode.NORMAL, nothing="No request has come over HTTP in this time",
        ),
        graph(
            "Requests under way",
            "Prompts that are being completed, by route.",
            Query(gauge("tandem_requests_in_progress", by=("route",)), "{{route}}"),
            unit="none", stack=StackingMode.NORMAL, nothing="No request has come yet",
        ),
        graph(
            "Whole completions",
            "From a request's arrival to the end of a completion; it grows with the length of answers.",
            Query(quantile(0.5, "tandem_request_duration_seconds", *BY_POLICY), "p50"),
            Query(quantile(0.95, "tandem_request_duration_seconds", *BY_POLICY), "p95"),
            unit="s", nothing=_NONE_ENDED,
        ),
        graph(
            "Tokens",
            "Of prompts whose completions ended, and generated.",
            Query(rate("tandem_prompt_tokens_total"), "prompts"),
            Query(rate("tandem_completion_tokens_total"), "completions"),
            unit="none", nothing="No orchestrator is scraped",
        ),
        graph(
            "Callers refused by key",
            "By reason. Many refused keys may be someone who tries keys; many refused for a limit, a key with too small"
            " a one.",
            Query(rate("tandem_key_refusals_total", by=("reason",)), "{{reason}}"),
            unit="reqps", nothing="No caller has been refused for its key",
        ),
    ]  # fmt: skip


def _times(title: str, histogram: str, told: str) -> Any:
    queries = [
        Query(quantile(share, histogram, *BY_POLICY, by=POLICY), f"{{{{stop_rule}}}} {{{{accept_rule}}}} {name}")
        for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    ]
    return graph(title, f"{told} By policy.", *queries, unit="s", width=12, nothing=_NONE_ENDED)
