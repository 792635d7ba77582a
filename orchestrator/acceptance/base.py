"""What every accept rule takes and gives.

The target verifies under one exact rule and answers in numbers; accept rules decide on those. `p` is the
target's distribution, `q` the draft's, `x` the candidate, `d` the Jensen-Shannon distance of p and q (base 2,
in [0, 1]).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Verification(enum.Enum):
    """The exact rule whose numbers the target sends; lossless in distribution each."""

    GREEDY = enum.auto()
    RATIO = enum.auto()
    BLOCK = enum.auto()
    COUPLED = enum.auto()


class Source(enum.Enum):
    """Why a candidate was kept: the exact rule accepts it, or only the lossy rule does."""

    MATCHED = enum.auto()
    LET_THROUGH = enum.auto()


@dataclass(frozen=True, slots=True)
class Bracket:
    """Bounds of a distance, in [0, 1]; equal where it is known."""

    lower: float
    upper: float

    @property
    def midpoint(self) -> float:
        return (self.lower + self.upper) / 2

    @property
    def is_exact(self) -> bool:
        return self.lower >= self.upper


@dataclass(frozen=True, slots=True)
class TargetNumbers:
    """What the target says of a candidate's position, in nats.

    log_p: log p(x), -infinity where p(x) = 0. max_log_p: of the likeliest token. entropy: H(p). top3_entropy: of the
    three likeliest tokens, taken to add up to 1.
    """

    log_p: float
    max_log_p: float
    entropy: float
    top3_entropy: float


@dataclass(frozen=True, slots=True)
class Position:
    """One candidate and what is known of it after verification.

    acceptance: probability in [0, 1] with which the exact rule accepts; `h` under block verification.
    u, v: independent uniforms in [0, 1); u for the exact rule, v for a second draw (AdaSD v2).
    correction: drawn from the exact rule's residual. target_token: the target's own, argmax p at temperature
    0 and a sample from p otherwise.
    in_support: whether a lossy rule may let the candidate through at all.
    distance, tv: d and the total variation of p and q; None where q was not sent (a drafter without
    distribution).
    exact_only: an end or stop token, which only the exact rule may accept.
    target: its numbers; None where they are not known, which is so in tests only.
    """

    token: int
    acceptance: float
    u: float
    correction: int
    target_token: int
    in_support: bool = True
    distance: Bracket | None = None
    tv: float | None = None
    exact_only: bool = False
    v: float = 0.0
    target: TargetNumbers | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A decided position, for thresholds that learn: its distance (midpoint of the bracket) and its fate."""

    distance: float
    accepted: bool


@dataclass(frozen=True, slots=True)
class Judgement:
    """What becomes of a block.

    kept: candidates kept, from the start of the block; sources: one for each of them.
    next_token: the token after them; None where all were kept and the bonus follows.
    path: of a tree, the kept candidates by index, from the text down; None follows one without children.
    undecided: indices whose bracket leaves the decision open. Where there are any, all else is empty: ask for
    their distances and judge again.
    charges, samples: for `record` only; total variations charged and positions to learn from, in order.
    """

    kept: int = 0
    sources: tuple[Source, ...] = ()
    next_token: int | None = None
    path: tuple[int, ...] = ()
    undecided: tuple[int, ...] = ()
    charges: tuple[float, ...] = ()
    samples: tuple[Sample, ...] = ()


class AcceptRule(Protocol):
    """Which candidates to accept, for one completion."""

    #: As in the policy.
    name: str

    @property
    def lossy(self) -> bool:
        """Whether the rule, as it was built, can change the distribution of the text."""
        ...

    @property
    def needs_distance(self) -> bool:
        """Whether positions should come with their distances."""
        ...

    @property
    def charge(self) -> float:
        """Sum of total variations charged: bounds TV(text, target's text). 0 if lossless."""
        ...

    @property
    def let_through(self) -> int:
        """Candidates kept that the exact rule would have rejected."""
        ...

    def verification(self, greedy: bool) -> Verification:
        """The exact rule to verify under; `greedy`: temperature 0."""
        ...

    def judge(self, block: Sequence[Position]) -> Judgement:
        """Decides one block. Changes nothing: may be repeated with tighter brackets."""
        ...

    def record(self, block: Sequence[Position], judgement: Judgement) -> None:
        """Takes in the final judgement of a block; called once per verification, in their order."""
        ...

    def thresholds(self) -> dict[str, float]:
        """Thresholds in force by name (`distance`); those that the rule has."""
        ...
