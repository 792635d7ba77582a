"""What `bench serve` keeps: a point for each policy and load, and what they come to."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from bench.plots.forms.base import Form

Kind = Literal["open", "closed"]


class Ratio(Form):
    """low and high: None of one repetition, which tells nothing of noise."""

    low: float | None = None
    middle: float
    high: float | None = None


class Percentiles(Form):
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class Point(Form):
    """One load. load: requests per second offered (open) or clients (closed). Times in milliseconds."""

    policy: str
    kind: Kind
    load: float
    requests: int = 0
    failed: int = 0
    seconds: float = 0.0
    tokens_per_second: float | None = None
    requests_per_second: float | None = None
    first_token_ms: Percentiles = Percentiles()
    per_token_ms: Percentiles = Percentiles()
    latency_ms: Percentiles = Percentiles()
    mean_acceptance_length: float | None = None
    plain_share: float | None = None
    over_alone: Ratio | None = None

    @field_validator("first_token_ms", "per_token_ms", "latency_ms", mode="before")
    @classmethod
    def _or_unknown(cls, value: Any) -> Any:
        """Where no request ended well there are none."""
        return {} if value is None else value


class Crossing(Form):
    """at: the load from which a policy does not pay; None where it pays at all that were measured."""

    policy: str
    kind: Kind
    at: float | None = None
    found_by: str | None = None
    plain_share: float | None = None
    mean_block_length: float | None = None


class Sweep(Form):
    """The goodput rule at one load, beside the best fixed length and the target alone."""

    kind: Kind
    load: float
    best_fixed: str
    over_best_fixed: Ratio | None = None
    over_none: Ratio | None = None


class ServeData(Form):
    points: list[Point]
    crossings: list[Crossing] = []
    sweep: list[Sweep] = []
