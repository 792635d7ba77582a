"""The rounds of completions, by policy. A round is noted every few milliseconds, so its series are looked up once."""

from __future__ import annotations

from collections.abc import Sequence

from tandem.telemetry import catalogue
from tandem.telemetry.metric import Metrics
from tandem.v1 import completion_pb2

_FIELDS = tuple(field.name for field in completion_pb2.RoundTime.DESCRIPTOR.fields)
_LAST_POSITION = 16
_POSITIONS = (*map(str, range(1, _LAST_POSITION + 1)), f"{_LAST_POSITION + 1}+")
#: Rules whose threshold is learnt, so that its value says something.
_ADAPTIVE_STOPS = ("adasd", "adaedl")
_ADAPTIVE_ACCEPTS = ("adasd",)


class RoundMetrics:
    """Of all policies."""

    def __init__(self, metrics: Metrics) -> None:
        self.parts = metrics.counter(catalogue.ROUND_PARTS)
        self.duration = metrics.histogram(catalogue.ROUND_DURATION)
        self.verify_steps = metrics.counter(catalogue.VERIFY_STEPS)
        self.drafted = metrics.counter(catalogue.DRAFTED_TOKENS)
        self.accepted = metrics.counter(catalogue.ACCEPTED_TOKENS)
        self.wasted = metrics.counter(catalogue.WASTED_TOKENS)
        self.lossy = metrics.counter(catalogue.LOSSY_TOKENS)
        self.length = metrics.histogram(catalogue.ACCEPTANCE_LENGTH)
        self.verified_position = metrics.counter(catalogue.VERIFIED_POSITION)
        self.accepted_position = metrics.counter(catalogue.ACCEPTED_POSITION)
        self.entropy = metrics.histogram(catalogue.DRAFT_ENTROPY)
        self.distance = metrics.histogram(catalogue.JS_DISTANCE)
        self.entropy_threshold = metrics.histogram(catalogue.ENTROPY_THRESHOLD)
        self.distance_threshold = metrics.histogram(catalogue.DISTANCE_THRESHOLD)
        self.q_bytes = metrics.counter(catalogue.Q_BYTES)
        self.full_rows = metrics.counter(catalogue.FULL_ROW_FETCHES)
        self.foreseen = metrics.counter(catalogue.LOOK_AHEAD_ROUNDS)
        self.pushed_tokens = metrics.counter(catalogue.LOOK_AHEAD_TOKENS)
        self.taken_tokens = metrics.counter(catalogue.LOOK_AHEAD_TAKEN_TOKENS)
        self.pushed_bytes = metrics.counter(catalogue.LOOK_AHEAD_BYTES)
        self.stale = metrics.counter(catalogue.LOOK_AHEAD_STALE)
        self.hidden = metrics.counter(catalogue.HIDDEN_SECONDS)
        self._fallback = metrics.counter(catalogue.FALLBACK_TOKENS)
        self._policies: dict[tuple[str, str], PolicyRounds] = {}

    def of(self, stop_rule: str, accept_rule: str) -> PolicyRounds:
        """As policies name them; `off` without speculation."""
        key = stop_rule, accept_rule
        if key not in self._policies:
            self._policies[key] = PolicyRounds(self, *key)
        return self._policies[key]

    def fallback(self, reason: str, tokens: int) -> None:
        """The target made tokens alone."""
        self._fallback.labels(reason).inc(tokens)


class PolicyRounds:
    """Of one policy."""

    def __init__(self, of: RoundMetrics, stop: str, accept: str) -> None:
        policy = stop, accept
        self._verify_steps = of.verify_steps.labels(*policy)
        self._drafted = of.drafted.labels(*policy)
        self._accepted = of.accepted.labels(*policy)
        self._wasted = of.wasted.labels(*policy)
        self._lossy = of.lossy.labels(*policy)
        self._length = of.length.labels(*policy)
        self._duration = of.duration.labels(*policy)
        self._parts = [of.parts.labels(stop, field.removesuffix("_microseconds")) for field in _FIELDS]
        self._verified_at = [of.verified_position.labels(accept, position) for position in _POSITIONS]
        self._accepted_at = [of.accepted_position.labels(accept, position) for position in _POSITIONS]
        self._entropies = of.entropy.labels("accepted"), of.entropy.labels("rejected")
        self._distances = of.distance.labels("accepted"), of.distance.labels("rejected")
        self._entropy_threshold = of.entropy_threshold.labels(*policy) if stop in _ADAPTIVE_STOPS else None
        self._distance_threshold = of.distance_threshold.labels(*policy) if accept in _ADAPTIVE_ACCEPTS else None
        self._q_bytes = of.q_bytes
        self._full_rows = of.full_rows
        self._of = of

    def verified(
        self, *, drafted: int, kept: int, let_through: int, entropies: Sequence[float], distances: Sequence[float]
    ) -> None:
        """A block of at least one candidate has been decided. entropies, distances: of its candidates, in order; no
        distances where none were measured."""
        self._verify_steps.inc()
        self._drafted.inc(drafted)
        self._accepted.inc(kept)
        self._wasted.inc(drafted - kept)
        self._lossy.inc(let_through)
        self._length.observe(kept + 1)
        for index in range(drafted):
            self._verified_at[min(index, _LAST_POSITION)].inc()
            if index < kept:
                self._accepted_at[min(index, _LAST_POSITION)].inc()
        # What comes after the first rejected one was never judged.
        for values, (accepted, rejected) in ((entropies, self._entropies), (distances, self._distances)):
            for value in values[:kept]:
                accepted.observe(value)
            for value in values[kept : kept + 1]:
                rejected.observe(value)

    def ended(self, parts: completion_pb2.RoundTime, seconds: float, *, drafted: int) -> None:
        """A round, or a token that the target made alone, has taken so long in all."""
        for counter, name in zip(self._parts, _FIELDS, strict=True):
            counter.inc(getattr(parts, name) / 1e6)
        if drafted:
            self._duration.observe(seconds)

    def received(self, q_bytes: int) -> None:
        """With a block."""
        self._q_bytes.inc(q_bytes)

    def fetched(self, full_rows: int) -> None:
        self._full_rows.inc(full_rows)

    def foreseen(self, found: str, *, all_kept: bool) -> None:
        """What was there of a round's block before it was asked for, after a block of which all were kept or not."""
        self._of.foreseen.labels(found, "all" if all_kept else "some").inc()

    def pushed(self, tokens: int, size: int, stale: int) -> None:
        """Candidates that came unasked, their bytes, and messages that came too late to be looked at."""
        self._of.pushed_tokens.inc(tokens)
        self._of.pushed_bytes.inc(size)
        self._of.stale.inc(stale)

    def taken(self, tokens: int, hidden_seconds: float) -> None:
        """Of the candidates that came unasked so many are verified."""
        self._of.taken_tokens.inc(tokens)
        self._of.hidden.inc(hidden_seconds)

    def thresholds(self, found: completion_pb2.SpeculationReport) -> None:
        """At a completion's end."""
        for series, name in ((self._entropy_threshold, "entropy"), (self._distance_threshold, "distance")):
            if series is not None and name in found.thresholds:
                series.observe(found.thresholds[name])
