"""How a completion ended, what it cost and what speculation did."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.client.mirror import mirrors
from tandem.v1 import completion_pb2


@mirrors(completion_pb2.Usage)
@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one choice.

    accepted_prediction_tokens, rejected_prediction_tokens: drafted tokens that are part of the completion, and those
    that are not.
    """

    prompt_tokens: int
    completion_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


@mirrors(completion_pb2.RoundTime)
@dataclass(frozen=True, slots=True)
class RoundTime:
    """Where the time of rounds went. The parts add up to the whole."""

    draft_queue_microseconds: int
    draft_compute_microseconds: int
    draft_wire_microseconds: int
    target_queue_microseconds: int
    target_compute_microseconds: int
    target_wire_microseconds: int
    orchestrator_microseconds: int


@mirrors(completion_pb2.TimeReport)
@dataclass(frozen=True, slots=True)
class Time:
    """Where the time of a completion went. rounds: the parts of rounds_microseconds."""

    first_token_microseconds: int
    total_microseconds: int
    draft_compute_microseconds: int
    target_compute_microseconds: int
    rounds_microseconds: int
    round_overhead_median_microseconds: int
    rounds: RoundTime | None


@mirrors(completion_pb2.LookAheadReport)
@dataclass(frozen=True, slots=True)
class LookAhead:
    """What was drafted ahead. Rounds are those that come next after a block of which something might have been
    foreseen: hits, where their block was there, and misses, by what became of the block before; misses also by cause.

    pushed_tokens, pushed_bytes: that came unasked; taken_tokens: of those, verified. stale_messages: of a block that
    was no longer the last one. hidden_microseconds: what asking for the blocks that were there would have taken.
    """

    hits_all_kept: int
    hits_rejected: int
    misses_all_kept: int
    misses_rejected: int
    misses_too_late: int
    misses_no_branch: int
    misses_other_token: int
    misses_short: int
    pushed_tokens: int
    taken_tokens: int
    pushed_bytes: int
    stale_messages: int
    hidden_microseconds: int


@mirrors(completion_pb2.MiddleReport)
@dataclass(frozen=True, slots=True)
class Middle:
    """What the middle model of a stack did.

    drafted_tokens, accepted_tokens: of the draft below it; plain_tokens: what it made without one; draft_failures:
    times that the draft was not there.
    """

    verify_steps: int
    drafted_tokens: int
    accepted_tokens: int
    plain_tokens: int
    draft_failures: int


@mirrors(completion_pb2.SpeculationReport)
@dataclass(frozen=True, slots=True)
class Speculation:
    """What speculation did, summed over one choice.

    stop_rule, accept_rule: names as in a policy; `off` without speculation. lossy: whether a rule that can change the
    distribution was in force; lossy_tokens: those that it let through; lossy_charge: a bound on how far the law of the
    text may be from the target's. accepted_at[i]: rounds in which candidate i was accepted. thresholds: at the end, by
    name. draft_failures: times that there was no draft and the target went on alone; plain_tokens: what it made alone.
    look_ahead: None where nothing was to be drafted ahead. unsubmitted_tokens: candidates beside `drafted_tokens` that
    a target with a budget did not verify. middle: None without a middle model.
    """

    stop_rule: str
    accept_rule: str
    lossy: bool
    lossy_tokens: int
    lossy_charge: float
    verify_steps: int
    drafted_tokens: int
    accepted_tokens: int
    mean_acceptance_length: float
    draft_acceptance_rate: float
    accepted_at: tuple[int, ...]
    full_rows: int
    time: Time | None
    thresholds: dict[str, float]
    draft_failures: int
    plain_tokens: int
    look_ahead: LookAhead | None
    unsubmitted_tokens: int
    middle: Middle | None


@mirrors(completion_pb2.Finish)
@dataclass(frozen=True, slots=True)
class Finish:
    """How a choice ended.

    reason: `stop` (end of sequence, a stop token or a stop text) or `length`. stop: the stop text that ended it; empty
    where none did. seed: the request's, or the one drawn for it.
    """

    reason: str
    stop: str
    usage: Usage
    speculation: Speculation
    seed: int
