"""What `bench draft` measures, part by part, and how its figures are called. Without torch."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping, Sequence

from bench.goals import Figure


class Part(enum.StrEnum):
    """What the bench measures."""

    AGREEMENT = "agreement"
    STEP = "step"
    SPEED = "speed"


GREEDY, OVERLAP, STEP = "greedy_agreement", "one_minus_tv", "step_over_target"
SPEEDS: Mapping[float, str] = {0.0: "speed_over_target_temperature_0", 1.0: "speed_over_target_temperature_1"}
#: By part.
FIGURES: Mapping[Part, Sequence[str]] = {
    Part.AGREEMENT: (GREEDY, OVERLAP), Part.STEP: (STEP,), Part.SPEED: tuple(SPEEDS.values())
}  # fmt: skip


def left_out(parts: Collection[Part]) -> Iterable[Figure]:
    """Of the parts that nobody asked for."""
    for part, names in FIGURES.items():
        if part not in parts:
            yield from (Figure.skipped(name, f"--only leaves out {part.value}") for name in names)
