"""Every metric of Tandem, once.

Names are `tandem_*` with base units; a label has few values, whatever callers send. What is known as it happens is
counted then, also of completions that are cancelled later.
"""

from __future__ import annotations

from collections.abc import Mapping

from tandem.telemetry.metric import Metric, Service

_FRONT: tuple[Service, ...] = ("orchestrator",)
_MODELS: tuple[Service, ...] = ("draft", "target")
_ALL: tuple[Service, ...] = (*_FRONT, *_MODELS)
_POLICY = ("stop_rule", "accept_rule")

#: What the labels may be.
LABELS: Mapping[str, str] = {
    "service": "`orchestrator`, `draft` or `target`; on the orchestrator the one that is spoken to or of",
    "version": "of Tandem",
    "model_id": "as `ModelInfo` has it",
    "revision": "as `ModelInfo` has it",
    "dtype": "as `ModelInfo` has it",
    "weights": "as `ModelInfo` has it",
    "route": "`grpc`, or the HTTP route as it is declared; `other` for those that there are not",
    "outcome": "of a request: `ok`, `cancelled`, or the reason of the error (docs/api.md, in lower case); of a session:"
    " `closed` by its caller, or a reason; of a candidate: `accepted` or `rejected`",
    "status": "of HTTP; 499 is a caller that left before there was one",
    "stop_rule": "as in the policy; `off` without speculation",
    "accept_rule": "as in the policy; `off` without speculation",
    "part": "`draft_queue`, `draft_compute`, `draft_wire`, `target_queue`, `target_compute`, `target_wire`,"
    " `orchestrator`; together a round's time",
    "position": "of a candidate in its block: `1` to `16`, `17+`",
    "reason": "of an error or a refusal: the reason in lower case, `timeout`, or a status of gRPC; of fallback tokens:"
    " `no_draft` (it failed, is absent, or its context is full), `late` (a block was not there in time), `slow` (with"
    " the draft it takes longer than without), `not_worth` (the stop rule chose 0) or `overload` (the target has no"
    " room left for candidates)",
    "method": "of gRPC; on the orchestrator what is said on a stream has a name of its own, as `Verify.round`",
    "state": "`ready`, `failed` or `mismatched`",
    "foreseen": "`hit` (the next block was there before it was asked for); else what was there instead: `too_late`"
    " (nothing yet), `no_branch` (nothing for so many kept candidates), `other_token` (only for other tokens after"
    " them), `short` (too little to be worth a verification)",
    "kept": "`all` candidates of the block before, or `some` or none of them",
    "code": "of gRPC, as `OK`; a stream that its caller closes by cancelling it, as the orchestrator does, is"
    " `CANCELLED` or `OK`, by what is noticed first",
}

# Upper bounds of buckets. Seconds: from a step of a small model to a long answer of a large one.
_TOKEN_SECONDS = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0,
)  # fmt: skip
_WAIT_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 60)
_TOTAL_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20, 30, 60, 120, 300, 600)
_ROUND_SECONDS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5)
_CALL_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_BLOCK_TOKENS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 30, 40, 64)
_YIELDED_TOKENS = (1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 17, 21, 31, 41, 65)
_ENTROPY_NATS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8)
_DISTANCES = (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
_STEP_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_STEP_SEQUENCES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256)


def _counter(name: str, told: str, *labels: str, on: tuple[Service, ...] = _FRONT) -> Metric:
    return Metric(name, "counter", told, labels, on)


def _gauge(name: str, told: str, *labels: str, on: tuple[Service, ...] = _FRONT) -> Metric:
    return Metric(name, "gauge", told, labels, on)


def _histogram(
    name: str, told: str, buckets: tuple[float, ...], *labels: str, on: tuple[Service, ...] = _FRONT
) -> Metric:
    return Metric(name, "histogram", told, labels, on, buckets)


# Every service.
BUILD_INFO = _gauge("tandem_build_info", "1 for the version that runs.", "service", "version", on=_ALL)
MODEL_INFO = _gauge(
    "tandem_model_info",
    "1 for the model that a service runs; on the orchestrator, for those that it works with.",
    "service", "model_id", "revision", "dtype", "weights", on=_ALL,
)  # fmt: skip

# Requests.
REQUESTS = _counter("tandem_requests_total", "Prompts that were to be completed.", "route", "outcome")
REQUESTS_IN_PROGRESS = _gauge("tandem_requests_in_progress", "Prompts that are being completed.", "route")
REQUESTS_WAITING = _gauge(
    "tandem_requests_waiting", "Prompts that wait to be begun, since those under way would be late otherwise."
)
KEY_REFUSALS = _counter(
    "tandem_key_refusals_total",
    "Requests refused for their API key (missing, unknown, expired, revoked) or by a limit of it.",
    "reason",
)
HTTP_RESPONSES = _counter("tandem_http_responses_total", "HTTP responses.", "route", "status")
FIRST_TOKEN = _histogram(
    "tandem_time_to_first_token_seconds", "From a request's arrival to the first token of a completion.",
    _WAIT_SECONDS, *_POLICY,
)  # fmt: skip
EACH_TOKEN = _histogram(
    "tandem_time_per_output_token_seconds",
    "Mean time between the tokens of a completion, the first not counted.",
    _TOKEN_SECONDS, *_POLICY,
)  # fmt: skip
REQUEST_DURATION = _histogram(
    "tandem_request_duration_seconds", "From a request's arrival to the end of a completion.",
    _TOTAL_SECONDS, *_POLICY,
)  # fmt: skip
MEAN_BLOCK = _histogram(
    "tandem_mean_block_tokens", "Mean length of a completion's blocks: candidates drafted over verifications.",
    _BLOCK_TOKENS, *_POLICY,
)  # fmt: skip
PROMPT_TOKENS = _counter("tandem_prompt_tokens_total", "Tokens of prompts whose completions ended.")
COMPLETION_TOKENS = _counter("tandem_completion_tokens_total", "Tokens generated.")

# Rounds.
ROUND_PARTS = _counter(
    "tandem_round_seconds_total",
    "Where the time of decoding goes: of rounds, and of tokens that the target made alone; a completion's first token"
    " is not among them.",
    "stop_rule", "part",
)  # fmt: skip
ROUND_DURATION = _histogram(
    "tandem_round_duration_seconds", "A round with candidates, from asking for them to having decided.",
    _ROUND_SECONDS, *_POLICY,
)  # fmt: skip
VERIFY_STEPS = _counter("tandem_verify_steps_total", "Verifications of a block of at least one candidate.", *_POLICY)
DRAFTED_TOKENS = _counter("tandem_drafted_tokens_total", "Candidates verified.", *_POLICY)
ACCEPTED_TOKENS = _counter("tandem_accepted_tokens_total", "Candidates accepted.", *_POLICY)
WASTED_TOKENS = _counter("tandem_wasted_tokens_total", "Candidates verified and not accepted.", *_POLICY)
LOSSY_TOKENS = _counter(
    "tandem_lossy_tokens_total",
    "Candidates that a lossy rule let through and the exact rule would not have.",
    *_POLICY,
)
ACCEPTANCE_LENGTH = _histogram(
    "tandem_acceptance_length_tokens",
    "Tokens that a round yields: the accepted candidates and the one after them.",
    _YIELDED_TOKENS, *_POLICY,
)  # fmt: skip
VERIFIED_POSITION = _counter(
    "tandem_verified_position_total", "Candidates verified, by their position.", "accept_rule", "position"
)
ACCEPTED_POSITION = _counter(
    "tandem_accepted_position_total", "Candidates accepted, by their position.", "accept_rule", "position"
)
DRAFT_ENTROPY = _histogram(
    "tandem_draft_entropy_nats",
    "Entropy of the draft's distribution at accepted candidates and at the first rejected one of a block.",
    _ENTROPY_NATS, "outcome",
)  # fmt: skip
JS_DISTANCE = _histogram(
    "tandem_js_distance",
    "Jensen-Shannon distance (base 2) of draft and target at the same candidates, the middle of its bracket; where the"
    " accept rule needs it.",
    _DISTANCES, "outcome",
)  # fmt: skip
ENTROPY_THRESHOLD = _histogram(
    "tandem_entropy_threshold_nats", "Threshold of an adaptive stop rule at a completion's end.",
    _ENTROPY_NATS, *_POLICY,
)  # fmt: skip
DISTANCE_THRESHOLD = _histogram(
    "tandem_distance_threshold", "Threshold of an adaptive accept rule at a completion's end.",
    _DISTANCES, *_POLICY,
)  # fmt: skip
FALLBACK_TOKENS = _counter(
    "tandem_fallback_tokens_total",
    "Tokens that the target made alone although speculation was asked for; a completion's first token only where there"
    " was no draft from its start.",
    "reason",
)
DRAFT_FAILURES = _counter("tandem_draft_failures_total", "Times that a draft failed or was not there.")
TARGET_TAKEOVERS = _counter(
    "tandem_target_takeovers_total",
    "Completions that lost their target after it had taken them and went on at another, or at the same one again.",
)

# What the draft makes while the target verifies.
LOOK_AHEAD_ROUNDS = _counter(
    "tandem_look_ahead_rounds_total",
    "Rounds after a block of which something might have been foreseen, by what was there.",
    "foreseen", "kept",
)  # fmt: skip
LOOK_AHEAD_TOKENS = _counter("tandem_look_ahead_tokens_total", "Candidates that came unasked.")
LOOK_AHEAD_TAKEN_TOKENS = _counter(
    "tandem_look_ahead_taken_tokens_total", "Of these, verified; the others were thrown away."
)
LOOK_AHEAD_BYTES = _counter("tandem_look_ahead_bytes_total", "Bytes in which they came.")
LOOK_AHEAD_STALE = _counter(
    "tandem_look_ahead_stale_messages_total", "Messages that looked ahead of a block that was no longer the last one."
)
HIDDEN_SECONDS = _counter(
    "tandem_look_ahead_hidden_seconds_total",
    "What asking for the blocks that were there would have taken, by what asking for others took.",
)

# The services behind the orchestrator.
REPLICAS = _gauge(
    "tandem_upstream_replicas",
    "Replicas of the draft and of the target: `ready`, `failed` (it does not answer, or its streams fail again and"
    " again), `mismatched` (it answers, and is of another model, tokenizer or version).",
    "service", "state",
)  # fmt: skip
Q_BYTES = _counter("tandem_q_bytes_total", "Bytes of compressed distributions that came with candidates.")
FULL_ROW_FETCHES = _counter(
    "tandem_full_row_fetches_total", "Full rows of the draft's distribution that a decision needed."
)
UPSTREAM_SECONDS = _histogram(
    "tandem_upstream_seconds", "From a message to a service to its answer; of `Verify.generate`, to the first token.",
    _CALL_SECONDS, "service", "method",
)  # fmt: skip
UPSTREAM_ERRORS = _counter("tandem_upstream_errors_total", "Messages of streams that failed.", "service", "reason")

# Sessions of the draft and of the target.
SESSIONS = _gauge("tandem_sessions", "Sessions that are open.", "service", on=_MODELS)
WAITING_BLOCKS = _gauge("tandem_waiting_blocks", "Blocks and prompts queued or under way.", "service", on=_MODELS)
ENDED_SESSIONS = _counter("tandem_sessions_total", "Sessions that have ended.", "service", "outcome", on=_MODELS)
REFUSED_SESSIONS = _counter(
    "tandem_refused_sessions_total", "Sessions that were not opened.", "service", "reason", on=_MODELS
)
RPC_SECONDS = _histogram("tandem_rpc_seconds", "Unary calls.", _CALL_SECONDS, "service", "method", "code", on=_MODELS)
STREAMS = _counter("tandem_streams_total", "Streams that have ended.", "service", "method", "code", on=_MODELS)

# Their engines; prompt look-up has none.
STEP_SECONDS = _histogram(
    "tandem_engine_step_seconds", "A step: the forward pass and what is made of its logits.",
    _TOKEN_SECONDS, "service", on=_MODELS,
)  # fmt: skip
STEP_TOKENS = _histogram("tandem_engine_step_tokens", "Tokens of a step.", _STEP_TOKENS, "service", on=_MODELS)
STEP_SEQUENCES = _histogram(
    "tandem_engine_step_sequences", "Sequences that a step serves: the size of its batch.",
    _STEP_SEQUENCES, "service", on=_MODELS,
)  # fmt: skip
QUEUE_SECONDS = _histogram(
    "tandem_engine_queue_seconds", "A block's wait for its first step.", _CALL_SECONDS, "service", on=_MODELS
)
CACHE_BYTES = _gauge("tandem_cache_bytes", "Key-value cache that open sessions hold.", "service", on=_MODELS)
CACHE_CAPACITY = _gauge("tandem_cache_capacity_bytes", "Size of the key-value cache.", "service", on=_MODELS)
PREFIX_TOKENS = _counter(
    "tandem_prefix_tokens_total", "Tokens found in the cache instead of being computed.", "service", on=_MODELS
)
PREFILLED_TOKENS = _counter(
    "tandem_prefilled_tokens_total",
    "Tokens computed without being asked for logits: of prompts, and of text that had to be computed again.",
    "service", on=_MODELS,
)  # fmt: skip
PREEMPTIONS = _counter(
    "tandem_preemptions_total", "Sessions that had to give up their place in the cache.", "service", on=_MODELS
)

#: All of them, in this order.
METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
