"""Every span of Tandem, and every attribute, once.

A completion is one trace: a request has a completion for each of its choices, these have rounds, and a round has the
exchanges with draft and target. What the two services do is a stream each, below the completion, with its blocks and
what the draft drafts ahead of them.
No attribute holds text of a prompt or of a completion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

#: Of attributes, which are named here without it.
PREFIX = "tandem."

#: Seconds throughout.
ATTRIBUTES: Mapping[str, str] = {
    "request_id": "the request's name, as in the log",
    "route": "as in the metrics",
    "outcome": "as in the metrics; of a completion `stop`, `length`, `cancelled` or a reason",
    "choice": "which of the request's choices, from 0",
    "stop_rule": "as in the policy; `off` without speculation",
    "accept_rule": "as in the policy; `off` without speculation",
    "prompt_tokens": "of the prompt",
    "tokens": "generated",
    "takeovers": "times that it lost its target and went on at another, or at the same one again",
    "acceptance_length": "tokens of a verification, in the mean",
    "acceptance_rate": "of candidates",
    "round": "its number, from 1; the prefill is the first where there is a draft",
    "block_tokens": "candidates of the block",
    "accepted_tokens": "of these, accepted",
    "draft_entropy": "nats, mean of the block's candidates",
    "foreseen": "whether the block was there before it was asked for; only where something might have been",
    "q_bytes": "compressed distributions of the block",
    "branches": "outcomes of a block for which the draft went on",
    "ahead_tokens": "candidates that it drafted for these",
    "taken": "whether one of these blocks became the next one without being asked for",
    "queue_seconds": "waiting for the first step",
    "compute_seconds": "steps that it took part in",
    "blocks": "answered on the stream",
}


@dataclass(frozen=True, slots=True)
class SpanName:
    """told: a sentence. attributes: of `ATTRIBUTES`, those that it may have. below: its parent."""

    name: str
    kind: Literal["server", "client", "internal"]
    told: str
    attributes: tuple[str, ...]
    below: str


_TIMES = ("queue_seconds", "compute_seconds")

REQUEST = SpanName(
    "tandem.request", "server", "A prompt, from its arrival to its last choice's end.",
    ("request_id", "route", "outcome"), "the caller's span, if it sends one",
)  # fmt: skip
COMPLETION = SpanName(
    "tandem.completion", "internal", "One choice.",
    (
        "choice", "stop_rule", "accept_rule", "prompt_tokens", "tokens", "takeovers", "acceptance_length",
        "acceptance_rate", "outcome",
    ),
    "tandem.request",
)  # fmt: skip
PREFILL = SpanName(
    "tandem.prefill", "internal", "The prompt, up to the target's first token.", ("round",), "tandem.completion"
)
ROUND = SpanName(
    "tandem.round", "internal", "A block, from asking for it to having decided.",
    ("round", "block_tokens", "accepted_tokens", "draft_entropy", "q_bytes", "foreseen"), "tandem.completion",
)  # fmt: skip
DRAFT = SpanName("tandem.draft", "client", "Asking the draft for a block.", _TIMES, "tandem.round")
ROWS = SpanName("tandem.rows", "client", "Asking the draft for full rows of q.", _TIMES, "tandem.round")
VERIFY = SpanName(
    "tandem.verify", "client", "Having the target verify a block.", _TIMES, "tandem.round or tandem.prefill"
)
RESOLVE = SpanName(
    "tandem.resolve", "client", "Having the target measure distances by full rows.", _TIMES, "tandem.round"
)
GENERATE = SpanName(
    "tandem.generate", "client", "Tokens that the target makes alone, the caller's waits included.",
    ("tokens", *_TIMES), "tandem.completion",
)  # fmt: skip
DRAFT_STREAM = SpanName(
    "tandem.draft.stream", "server", "In the draft: a sequence, from its opening to its end.",
    ("request_id", "blocks", "outcome"), "tandem.completion",
)  # fmt: skip
DRAFT_BLOCK = SpanName(
    "tandem.draft.block", "internal", "In the draft: a block.", ("round", "block_tokens", *_TIMES),
    "tandem.draft.stream",
)  # fmt: skip
DRAFT_AHEAD = SpanName(
    "tandem.draft.ahead", "internal",
    "In the draft: what it drafts unasked for what may become of a block, from the block's end until its outcome is"
    " known; none where it has drafted nothing.",
    ("round", "branches", "ahead_tokens", "taken"), "tandem.draft.stream",
)  # fmt: skip
TARGET_STREAM = SpanName(
    "tandem.target.stream", "server", "In the target: a sequence, from its opening to its end.",
    ("request_id", "blocks", "outcome"), "tandem.completion",
)  # fmt: skip
TARGET_BLOCK = SpanName(
    "tandem.target.block", "internal", "In the target: a block verified, or tokens made alone.",
    ("round", "block_tokens", "tokens", *_TIMES), "tandem.target.stream",
)  # fmt: skip

#: All of them, in this order.
SPANS: tuple[SpanName, ...] = tuple(value for value in list(globals().values()) if isinstance(value, SpanName))
