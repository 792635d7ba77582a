"""Where a round's time goes."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.models.common import StackingMode

from deploy.grafana.panels import Query, graph
from deploy.grafana.queries import BY_POLICY, BY_STOP, POLICY, mean, quantile, rate

TITLE = "Where a round's time goes"

_QUIET = "No completion was decoding in this time"
_PARTS, _ROUND = "tandem_round_seconds_total", "tandem_round_duration_seconds"
_COLOURS = {
    "draft_queue": "super-light-blue", "draft_compute": "dark-blue", "draft_wire": "light-blue",
    "target_queue": "super-light-orange", "target_compute": "dark-orange", "target_wire": "light-orange",
    "orchestrator": "text",
}  # fmt: skip


def panels() -> list[Any]:
    policy = "{{stop_rule}} {{accept_rule}}"
    return [
        graph(
            "Completions, by what they wait for",
            "How many completions are decoding at a time, and with what: waiting for a step of the draft, in its steps,"
            " on the wire to it; the same for the target; and what is left to the orchestrator. Much blue: the draft is"
            " too slow or drafts too much. Much queue: too many callers for this service. Much wire: the services are"
            " too far apart.",
            Query(rate(_PARTS, *BY_STOP, by=("part",)), "{{part}}"),
            unit="none", stack=StackingMode.NORMAL, colours=_COLOURS, width=12, nothing=_QUIET,
        ),
        graph(
            "The same, in shares",
            "Of the time of decoding. The draft's parts are what speculation costs; tokens that the target makes alone"
            " have none.",
            Query(rate(_PARTS, *BY_STOP, by=("part",)), "{{part}}"),
            unit="percentunit", stack=StackingMode.PERCENT, colours=_COLOURS, width=12, nothing=_QUIET,
        ),
        graph(
            "Time of a round, by policy",
            "Of rounds with a draft: median and 95th percentile. Far apart: blocks differ in length (an adaptive stop"
            " rule), or others' prompts stand in the way.",
            Query(quantile(0.5, _ROUND, *BY_POLICY, by=POLICY), f"{policy} p50"),
            Query(quantile(0.95, _ROUND, *BY_POLICY, by=POLICY), f"{policy} p95"),
            unit="s", nothing=_QUIET,
        ),
        graph(
            "Candidates in a block",
            "Mean length of the blocks of a completion: what the stop rule makes of it.",
            Query(mean("tandem_mean_block_tokens", *BY_POLICY, by=POLICY), policy),
            unit="none", nothing="No completion with a draft has ended in this time",
        ),
        graph(
            "The draft's distributions on the wire",
            "Bytes of compressed rows of q that a round brings to the target. Rules that need no distance send none.",
            Query(f"{rate('tandem_q_bytes_total')} / {rate(f'{_ROUND}_count')}", "bytes a round"),
            unit="bytes", width=4, nothing=_QUIET,
        ),
        graph(
            "Full rows fetched",
            "Times that a distance could not be decided from the compressed row, so that the whole one was sent: a"
            " second trip to both services.",
            Query(rate("tandem_full_row_fetches_total"), "a second"),
            unit="none", width=4, nothing=_QUIET,
        ),
    ]  # fmt: skip
