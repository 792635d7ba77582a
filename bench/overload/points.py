"""What callers got at one rate of arrivals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.serve.loops import Loaded
from bench.serve.records import Percentiles, Record

#: Status of a request that was refused, and of one that was late.
REFUSED, LATE = "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"


@dataclass(slots=True)
class Point:
    """multiple: of capacity. rate: requests per second that arrived in the mean. A run for each repetition; counted are
    requests that were due in its window."""

    multiple: float
    rate: float
    runs: list[Loaded] = field(default_factory=list)

    @property
    def goodputs(self) -> list[float]:
        """Of each run: requests per second that ended within their deadlines."""
        return [sum(record.failure is None for record in run.counted) / run.window.seconds for run in self.runs]

    @property
    def counted(self) -> list[Record]:
        return [record for run in self.runs for record in run.counted]

    @property
    def failures(self) -> Counter[str]:
        return Counter(record.failure for record in self.counted if record.failure is not None)

    @property
    def latency(self) -> Percentiles | None:
        """Of those that ended within their deadlines."""
        return _latency(self.counted, lambda record: record.failure is None)

    @property
    def refusal(self) -> Percentiles | None:
        """From when a request was due until it was refused."""
        return _latency(self.counted, lambda record: record.failure == REFUSED)

    @property
    def candidates_per_token(self) -> float | None:
        """How much speculation there was, in those that ended well; None where none did."""
        finished = [record.finish for record in self.counted if record.finish is not None]
        tokens = sum(finish.usage.completion_tokens for finish in finished)
        return sum(finish.speculation.drafted_tokens for finish in finished) / tokens if tokens else None

    def to_plain(self) -> dict[str, Any]:
        """As JSON values; None is what nothing tells."""
        latency, refusal = self.latency, self.refusal
        return {
            "multiple": self.multiple,
            "rate": self.rate,
            "requests": len(self.counted),
            "goodputs": self.goodputs,
            "failures": dict(self.failures),
            "latency_seconds": asdict(latency) if latency else None,
            "refusal_seconds": asdict(refusal) if refusal else None,
            "candidates_per_token": self.candidates_per_token,
        }


def _latency(records: Sequence[Record], wanted: Callable[[Record], bool]) -> Percentiles | None:
    found = [record.latency_seconds for record in records if wanted(record)]
    return Percentiles.of([seconds for seconds in found if seconds is not None])
