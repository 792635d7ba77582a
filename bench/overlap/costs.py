"""What a step costs where draft and target have a device each."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Costs:
    """Milliseconds. target: of a step of up to `target_positions` positions; target_more: of each further one.
    draft: of each `draft_rows` rows of a step. wire: one way to the draft. round: all else of a round."""

    target: float = 30.0
    target_positions: int = 16
    target_more: float = 0.2
    draft: float = 2.0
    draft_rows: int = 16
    wire: float = 0.5
    round: float = 0.0

    def verify(self, candidates: int) -> float:
        """A step of the target over a block."""
        return self.target_step(candidates + 1)

    def target_step(self, positions: int) -> float:
        return self.target + self.target_more * max(0, positions - self.target_positions)

    def draft_step(self, rows: int) -> float:
        return self.draft * -(-rows // self.draft_rows)

    def stretched(self, factor: float) -> Costs:
        """All times so many times as long; rows and positions stay."""
        return replace(
            self, target=self.target * factor, target_more=self.target_more * factor, draft=self.draft * factor,
            wire=self.wire * factor, round=self.round * factor,
        )  # fmt: skip
