"""The engines of draft and target."""

from __future__ import annotations

from typing import Any

from deploy.grafana.panels import Query, graph
from deploy.grafana.queries import gauge, mean, quantile, rate

TITLE = "Engines of draft and target"

_EACH = ("service", "instance")
_LEGEND = "{{service}} {{instance}}"
_IDLE = "No step has been made in this time"
_UNSEEN = "No draft or target is scraped"


def panels() -> list[Any]:
    return [*_steps(), *_room()]


def _steps() -> list[Any]:
    return [
        graph(
            "Sequences in a step",
            "Mean batch size: how many callers share a forward pass.",
            Query(mean("tandem_engine_step_sequences", by=_EACH), _LEGEND), unit="none", nothing=_IDLE,
        ),
        graph(
            "Tokens in a step",
            "Mean number of tokens that a forward pass takes in: blocks and pieces of prompts.",
            Query(mean("tandem_engine_step_tokens", by=_EACH), _LEGEND), unit="none", nothing=_IDLE,
        ),
        graph(
            "Time of a step",
            "Mean and 95th percentile. Longer steps with as many tokens: the device is slower than it was, or shared.",
            Query(mean("tandem_engine_step_seconds", by=_EACH), f"{_LEGEND} mean"),
            Query(quantile(0.95, "tandem_engine_step_seconds", by=_EACH), f"{_LEGEND} p95"), unit="s", nothing=_IDLE,
        ),
        graph(
            "Wait for a step",
            "From a block's arrival to its first forward pass. Up to a step is natural; several mean that not all"
            " fit into one.",
            Query(quantile(0.5, "tandem_engine_queue_seconds", by=_EACH), f"{_LEGEND} p50"),
            Query(quantile(0.95, "tandem_engine_queue_seconds", by=_EACH), f"{_LEGEND} p95"), unit="s", nothing=_IDLE,
        ),
        graph(
            "Blocks that wait",
            "Blocks and prompts that are queued or under way.",
            Query(gauge("tandem_waiting_blocks", by=_EACH), _LEGEND), unit="none", nothing=_UNSEEN,
        ),
        graph(
            "Open sessions",
            "One for each sequence. --max-sessions bounds them.",
            Query(gauge("tandem_sessions", by=_EACH), _LEGEND), unit="none", nothing=_UNSEEN,
        ),
    ]  # fmt: skip


def _room() -> list[Any]:
    used, room = gauge("tandem_cache_bytes", by=_EACH), gauge("tandem_cache_capacity_bytes", by=_EACH)
    reused = rate("tandem_prefix_tokens_total", by=_EACH)
    return [
        graph(
            "Key-value cache in use",
            "Share of the cache that open sessions hold. What ended sessions left for others to reuse is free.",
            Query(f"{used} / ({room} > 0)", _LEGEND), unit="percentunit", nothing=_UNSEEN,
        ),
        graph(
            "Prompts found in the cache",
            "Share of the tokens of prompts that need not be computed, since another session began with the same text.",
            Query(f"{reused} / ({reused} + {rate('tandem_prefilled_tokens_total', by=_EACH)})", _LEGEND),
            unit="percentunit", nothing="No prompt has been read in this time",
        ),
        graph(
            "Preemptions",
            "Sessions a second that lose their cache for want of room and are computed again later.",
            Query(rate("tandem_preemptions_total", by=_EACH), _LEGEND), unit="none", nothing=_UNSEEN,
        ),
        graph(
            "Sessions that ended",
            "A second, by how they ended.",
            Query(rate("tandem_sessions_total", by=("service", "outcome")), "{{service}} {{outcome}}"),
            unit="none", nothing="No session has ended in this time",
        ),
        graph(
            "Sessions refused",
            "A second, by reason.",
            Query(rate("tandem_refused_sessions_total", by=("service", "reason")), "{{service}} {{reason}}"),
            unit="none", nothing="No session has been refused in this time",
        ),
        graph(
            "Calls answered",
            "Streams that ended and other calls, a second, by status.",
            Query(rate("tandem_streams_total", by=("service", "method", "code")), "{{service}} {{method}} {{code}}"),
            Query(
                rate("tandem_rpc_seconds_count", by=("service", "method", "code")), "{{service}} {{method}} {{code}}"
            ),
            unit="reqps", nothing=_UNSEEN,
        ),
    ]  # fmt: skip
