"""What a rule may be told: each option is declared beside the rule that has it, with its bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: As an option of a rule is given: proto's numbers and flags.
Value = float | int | bool


@dataclass(frozen=True, slots=True)
class Option:
    """A keyword of a rule's constructor; finite, in [least, most] or (above, most]. needed: has no default.

    kind: float, int or bool. A number may stand for either of the latter (a map holds numbers only): a whole one, and 0
    or 1.
    """

    name: str
    least: float | None = None
    above: float | None = None
    most: float | None = None
    needed: bool = False
    kind: type[Value] = float

    def read(self, value: Value) -> Value:
        """The value as the rule takes it. Raises ValueError, saying what it must be."""
        if self.kind is bool:
            if value not in (0, 1):
                raise ValueError(f"must be 0 or 1, not {value}")
            return bool(value)
        if not self._fits(value):
            raise ValueError(f"must be {self._bounds()}, not {value}")
        if self.kind is int and value != int(value):
            raise ValueError(f"must be a whole number, not {value}")
        return self.kind(value)

    def _fits(self, value: Value) -> bool:
        return (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
        )

    def _bounds(self) -> str:
        lower = f"above {self.above}" if self.above is not None else f"at least {self.least}"
        if self.most is None:
            return lower
        return f"{lower} and at most {self.most}" if self.least is None else f"in [{self.least}, {self.most}]"
