"""What an engine tells of its steps. Who listens, and what becomes of it, is not the engine's matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step. seconds: until its works have taken their logits. tokens, sequences: that it served. waits: seconds
    that works waited for it, of those that had their first step in it."""

    seconds: float
    tokens: int
    sequences: int
    waits: Sequence[float]


class EngineObserver(Protocol):
    """Told of every step, on the engine's thread: it must be quick, and must not raise."""

    def stepped(self, step: StepReport) -> None: ...
