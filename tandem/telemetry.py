"""Every metric of Tandem by name, once. Names are `tandem_*` with base units; labels have a bounded number of values.

Prometheus reads them at `/metrics`. Services of one process that must not be mixed up have a `Telemetry` each.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from tandem.rpc.errors import CODES, TandemError
from tandem.v1 import completion_pb2

#: Content type of what Prometheus reads.
EXPOSITION_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_POLICY = ("stop_rule", "accept_rule")

# Bounds of buckets, in seconds: from a step of a small model to a long answer of a large one.
_TOKEN_SECONDS = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0,
)  # fmt: skip
_WAIT_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 60)
_TOTAL_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20, 30, 60, 120, 300, 600)
_BLOCK_TOKENS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 30, 40, 64)


class Telemetry:
    """The metrics of one orchestrator."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()

        def counter(name: str, told: str, *labels: str) -> Counter:
            return Counter(name, told, labels, registry=registry)

        def histogram(name: str, told: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, told, labels, buckets=buckets, registry=registry)

        self.requests = counter(
            "tandem_requests_total",
            "Prompts that were to be completed, by route and outcome: ok, cancelled, or the reason of the error.",
            "route", "outcome",
        )  # fmt: skip
        self.requests_under_way = Gauge(
            "tandem_requests_in_progress", "Prompts that are being completed.", ("route",), registry=registry
        )
        self.http_responses = counter(
            "tandem_http_responses_total",
            "HTTP responses by route and status; 499 is a caller that left before one.",
            "route", "status",
        )  # fmt: skip
        self.first_token = histogram(
            "tandem_time_to_first_token_seconds",
            "From a request's arrival to the first token of a completion.",
            _WAIT_SECONDS, *_POLICY,
        )  # fmt: skip
        self.each_token = histogram(
            "tandem_time_per_output_token_seconds",
            "Mean time between the tokens of a completion, the first not counted.",
            _TOKEN_SECONDS, *_POLICY,
        )  # fmt: skip
        self.whole = histogram(
            "tandem_request_duration_seconds",
            "From a request's arrival to the end of a completion.",
            _TOTAL_SECONDS, *_POLICY,
        )  # fmt: skip
        self.mean_block = histogram(
            "tandem_mean_block_tokens",
            "Mean length of a completion's blocks: candidates drafted over verifications.",
            _BLOCK_TOKENS, *_POLICY,
        )  # fmt: skip
        self.prompt_tokens = counter("tandem_prompt_tokens_total", "Tokens of prompts whose completions ended.")
        self.completion_tokens = counter(
            "tandem_completion_tokens_total", "Tokens generated, those of completions that were cancelled included."
        )
        # What speculation did is known at the end: of completions that ended by themselves.
        self.verify_steps = counter("tandem_verify_steps_total", "Verifications of a block.", *_POLICY)
        self.drafted_tokens = counter("tandem_drafted_tokens_total", "Candidates verified.", *_POLICY)
        self.accepted_tokens = counter("tandem_accepted_tokens_total", "Candidates accepted.", *_POLICY)
        self.lossy_tokens = counter(
            "tandem_lossy_tokens_total",
            "Candidates that a lossy rule let through and the exact rule would not have.",
            *_POLICY,
        )
        self.draft_failures = counter("tandem_draft_failures_total", "Times that a draft failed or was not there.")

    @contextmanager
    def request(self, route: str) -> Iterator[RequestRecord]:
        """Around one request to `Completions`, on whichever face it came."""
        under_way = self.requests_under_way.labels(route)
        under_way.inc()
        outcome = "cancelled"  # closed early, or cancelled
        try:
            yield RequestRecord(self)
            outcome = "ok"
        except TandemError as error:
            # A service of another version may know reasons that this one does not.
            outcome = error.reason.lower() if error.reason in CODES else "other"
            raise
        except Exception:
            outcome = "internal"
            raise
        finally:
            under_way.dec()
            self.requests.labels(route, outcome).inc()

    def exposition(self) -> bytes:
        """All metrics, as `EXPOSITION_TYPE`."""
        return generate_latest(self._registry)


class RequestRecord:
    """What is seen of one request while it is answered."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._arrived = time.perf_counter()
        self._first_token: dict[int, float] = {}  # by choice

    def saw(self, response: completion_pb2.CompleteResponse) -> None:
        if response.token_ids:
            self._telemetry.completion_tokens.inc(len(response.token_ids))
            self._first_token.setdefault(response.choice, time.perf_counter())
        if response.HasField("finish"):
            self._ended(response.choice, response.finish)

    def _ended(self, choice: int, finish: completion_pb2.Finish) -> None:
        told, usage, report = self._telemetry, finish.usage, finish.speculation
        policy = report.stop_rule, report.accept_rule
        now = time.perf_counter()
        first = self._first_token.get(choice, now)
        told.first_token.labels(*policy).observe(first - self._arrived)
        told.whole.labels(*policy).observe(now - self._arrived)
        if usage.completion_tokens > 1:
            told.each_token.labels(*policy).observe((now - first) / (usage.completion_tokens - 1))
        if report.verify_steps:
            told.mean_block.labels(*policy).observe(report.drafted_tokens / report.verify_steps)
        if choice == 0:  # the choices share one prompt
            told.prompt_tokens.inc(usage.prompt_tokens)
        told.verify_steps.labels(*policy).inc(report.verify_steps)
        told.drafted_tokens.labels(*policy).inc(report.drafted_tokens)
        told.accepted_tokens.labels(*policy).inc(report.accepted_tokens)
        told.lossy_tokens.labels(*policy).inc(report.lossy_tokens)
        told.draft_failures.inc(report.draft_failures)
