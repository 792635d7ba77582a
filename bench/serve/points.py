"""What callers got by one policy at one load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.serve.loops import Load, Loaded
from bench.serve.records import Percentiles, Record
from tandem.v1 import completion_pb2


@dataclass(slots=True)
class Point:
    """One policy at one load; a run for each repetition. Times are told of the counted requests of all runs that
    ended well, rates of all runs together."""

    policy: str
    load: Load
    runs: list[Loaded] = field(default_factory=list)

    @property
    def speeds(self) -> list[float]:
        """Of each run, more is better: tokens per second of a closed loop. An open one gives as many as are asked
        for up to the edge of what it can: there it is requests per second of one caller, over the median latency.
        0 where nothing came."""
        return [_speed(run, self.load) for run in self.runs]

    @property
    def seconds(self) -> float:
        return sum(run.window.seconds for run in self.runs)

    @property
    def tokens_per_second(self) -> float:
        return sum(run.window.tokens(run.records) for run in self.runs) / self.seconds

    @property
    def requests_per_second(self) -> float:
        return sum(run.window.completions(run.records) for run in self.runs) / self.seconds

    @property
    def cpu_share(self) -> float:
        """Of one core, that the source of the load took."""
        return sum(run.cpu_seconds for run in self.runs) / self.seconds

    @property
    def completed(self) -> list[Record]:
        return [record for run in self.runs for record in _completed(run)]

    @property
    def failures(self) -> Counter[str]:
        """Counted requests that failed, by their status."""
        return Counter(record.failure for run in self.runs for record in run.counted if record.failure is not None)

    @property
    def first_token(self) -> Percentiles | None:
        return _percentiles(self.completed, lambda record: record.first_token_seconds)

    @property
    def per_token(self) -> Percentiles | None:
        return _percentiles(self.completed, lambda record: record.per_token_seconds)

    @property
    def latency(self) -> Percentiles | None:
        return _percentiles(self.completed, lambda record: record.latency_seconds)

    @property
    def mean_acceptance_length(self) -> float | None:
        """Tokens of a round with candidates; 1 where there was no such round, None where nothing was completed."""
        reports = self._reports()
        steps = sum(report.verify_steps for report in reports)
        return 1 + sum(report.accepted_tokens for report in reports) / max(1, steps) if reports else None

    @property
    def mean_block_length(self) -> float | None:
        """Candidates of a round with candidates; as above, but 0 where there was none."""
        reports = self._reports()
        steps = sum(report.verify_steps for report in reports)
        return sum(report.drafted_tokens for report in reports) / max(1, steps) if reports else None

    @property
    def plain_share(self) -> float | None:
        """Of all tokens, those that the target made alone; None where nothing was completed."""
        tokens = sum(record.finish.usage.completion_tokens for record in self.completed if record.finish)
        return sum(report.plain_tokens for report in self._reports()) / tokens if tokens else None

    @property
    def draft_failures(self) -> int:
        """Times that the draft had no answer for a request, which the target then made alone."""
        return sum(report.draft_failures for report in self._reports())

    def _reports(self) -> list[completion_pb2.SpeculationReport]:
        return [record.finish.speculation for record in self.completed if record.finish is not None]

    def to_plain(self) -> dict[str, Any]:
        """As JSON values; None is what nothing tells."""
        return {
            "policy": self.policy,
            "kind": self.load.kind,
            "load": self.load.amount,
            "requests": len(self.completed),
            "failed": self.failures.total(),
            "failures": dict(self.failures),
            "draft_failures": self.draft_failures,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens_per_second,
            "requests_per_second": self.requests_per_second,
            "first_token_ms": _milliseconds(self.first_token),
            "per_token_ms": _milliseconds(self.per_token),
            "latency_ms": _milliseconds(self.latency),
            "mean_acceptance_length": self.mean_acceptance_length,
            "mean_block_length": self.mean_block_length,
            "plain_share": self.plain_share,
            "bench_cpu_share": self.cpu_share,
            "speeds": self.speeds,
        }


def _completed(run: Loaded) -> list[Record]:
    return [record for record in run.counted if record.failure is None]


def _speed(run: Loaded, load: Load) -> float:
    if not load.is_open:
        return run.window.tokens(run.records) / run.window.seconds
    latency = _percentiles(_completed(run), lambda record: record.latency_seconds)
    return 1 / latency.p50 if latency else 0.0


def _percentiles(records: Sequence[Record], time_of: Callable[[Record], float | None]) -> Percentiles | None:
    return Percentiles.of([seconds for record in records if (seconds := time_of(record)) is not None])


def _milliseconds(found: Percentiles | None) -> dict[str, float] | None:
    return {name: seconds * 1e3 for name, seconds in asdict(found).items()} if found else None
