"""What asking the draft for a block costs a completion, against a block that is there and shorter."""

from __future__ import annotations

from dataclasses import dataclass, field

from tandem.step_times import Recent
from tandem.v1 import block_pb2


@dataclass(slots=True)
class Asking:
    """Measured by the completion itself: the exchange with the draft less its steps, a step, and what rounds yield."""

    _trip: Recent = field(default_factory=Recent)
    _step: Recent = field(default_factory=Recent)
    _whole: Recent = field(default_factory=Recent)
    _tokens: Recent = field(default_factory=Recent)
    _seconds: Recent = field(default_factory=Recent)

    def answered(self, timing: block_pb2.Timing, seconds: float) -> None:
        """A block came that was asked for."""
        compute = min(timing.compute_microseconds / 1e6, seconds)
        self._trip.add(seconds - compute)
        self._whole.add(seconds)
        if timing.steps:
            self._step.add(compute / timing.steps)

    def round_ended(self, tokens: int, seconds: float) -> None:
        """tokens: that it yielded, at least one."""
        self._tokens.add(tokens)
        self._seconds.add(seconds)

    @property
    def usual_seconds(self) -> float:
        """Of late, all in all; 0 before anything was measured."""
        return self._whole.or_else(0.0)

    def seconds(self, candidates: int) -> float:
        """For so many; 0 before anything was measured."""
        if self._trip.value is None:
            return 0.0
        return self._trip.value + candidates * self._step.or_else(0.0)

    def pays(self, survival: float, acceptance: float, more: int) -> bool:
        """Whether `more` candidates after those that are there are expected to yield more than the completion yields in
        the time that asking for them takes. survival: the chance that all that are there are kept. acceptance: of each
        further one."""
        if not self._seconds.value or self._tokens.value is None:
            return True
        expected = 0.0
        for _ in range(more):
            survival *= acceptance
            expected += survival
        return expected > self.seconds(more) * self._tokens.value / self._seconds.value
