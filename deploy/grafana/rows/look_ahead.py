"""What the draft makes while the target verifies: how often it is the next block, and what it costs."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.models.common import StackingMode

from deploy.grafana.panels import Query, graph
from deploy.grafana.queries import rate

TITLE = "Look-ahead"

_NONE = "No draft has looked ahead in this time"
_ROUNDS = "tandem_look_ahead_rounds_total"
_HIT = 'foreseen="hit"'


def panels() -> list[Any]:
    kept = ("kept",)
    # Where nothing was ever foreseen there is no such series; that is a share of 0.
    hits = f"({rate(_ROUNDS, _HIT, by=kept)} or 0 * {rate(_ROUNDS, by=kept)})"
    return [
        graph(
            "Blocks that were there, by what became of the one before",
            "Of rounds after a block that the draft could look ahead of, the share whose block was there before it was"
            " asked for. all: the block before was kept whole, so that the draft had to foresee one more token. some:"
            " a candidate was rejected, so that it had to foresee where, and by which token it would be corrected.",
            Query(f"{hits} / {rate(_ROUNDS, by=kept)}", "kept {{kept}}"),
            Query(f"({rate(_ROUNDS, _HIT)} or vector(0)) / {rate(_ROUNDS)}", "together"),
            unit="percentunit", nothing=_NONE,
        ),
        graph(
            "Why the others were not there",
            "Rounds a second that had to ask. too_late: nothing had come yet; the draft or the wire to it is slower"
            " than a verification, or others' blocks leave it no rows. no_branch: nothing for so many kept candidates."
            " other_token: only for other tokens after them; more branches help against both. short: a block that was"
            " there was not worth its verification.",
            Query(rate(_ROUNDS, 'foreseen!="hit"', by=("foreseen",)), "{{foreseen}}"),
            unit="none", stack=StackingMode.NORMAL, nothing="Every block was there, or no draft has looked ahead",
        ),
        graph(
            "Seconds hidden, each second",
            "What asking for the blocks that were there would have taken, by what asking for others took: so many"
            " completions would be waiting for the draft at a time, and go on instead.",
            Query(rate("tandem_look_ahead_hidden_seconds_total"), "hidden"),
            unit="s", nothing=_NONE,
        ),
        graph(
            "Candidates sent ahead, and verified",
            "A second. What lies between the lines was drafted and sent for outcomes that did not come true, and is"
            " thrown away: rows that asked-for blocks left free, and room on the wire.",
            Query(rate("tandem_look_ahead_tokens_total"), "sent"),
            Query(rate("tandem_look_ahead_taken_tokens_total"), "verified"),
            unit="none", nothing=_NONE,
        ),
        graph(
            "Bytes sent ahead",
            "From drafts to orchestrators. Much of it is q: rules that need no distance send ids and numbers alone."
            " --look-ahead-bytes bounds it for each block.",
            Query(rate("tandem_look_ahead_bytes_total"), "sent"),
            unit="Bps", nothing=_NONE,
        ),
        graph(
            "Messages that came after their time",
            "A second: what was on its way when its outcome was known. Some always are; many come over a slow wire, or"
            " to an orchestrator that is busy.",
            Query(rate("tandem_look_ahead_stale_messages_total"), "a second"),
            unit="none", nothing=_NONE,
        ),
    ]  # fmt: skip
