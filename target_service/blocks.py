"""What a step verifies and what comes of it: blocks of candidates of many sequences, and the numbers of each."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from tandem.distributions import CompressedRow
from tandem.noise import NoiseStream
from tandem.trees import NO_TREE, Tree
from target_service.log_probabilities import PositionLogProbabilities


class Rule(enum.Enum):
    """An exact rule. GREEDY is that of temperature 0; the others need temperature above 0."""

    GREEDY = "greedy"
    RATIO = "ratio"
    BLOCK = "block"
    COUPLED = "coupled"

    @property
    def draws_residuals(self) -> bool:
        """Whether it accepts by p(x)/q(x) and corrects from a residual; it then needs q itself, without a tail."""
        return self in (Rule.RATIO, Rule.BLOCK)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of n candidates of one sequence; n may be 0.

    rows: q of each candidate; None where it was not sent, which RATIO and BLOCK refuse (their q is `law(row)`, the
    law the draft drew from). position: absolute position of the first candidate. forbids: whether the sequence's
    sampling may give tokens probability 0; only costs time where it need not be. max_entries, mass: what is wanted of
    p at each position, see `compress`; 0 entries for nothing. tree: the candidates' shape where they are a tree; then
    the first row of p is that after the text, row i + 1 that after candidate i, and `rows` still has an entry for each
    candidate, that of its siblings. RATIO and BLOCK both verify a tree by recursive rejection. drafts: whether what is
    emitted is verified by another model, for which p is cut to max_entries, renormalised and rounded first (RATIO and
    BLOCK only, and no trees). attempt: of draws at positions that may be drawn again.
    """

    rule: Rule
    candidates: Sequence[int]
    rows: Sequence[CompressedRow] | None
    noise: NoiseStream
    position: int
    forbids: bool = True
    max_entries: int = 0
    mass: float = 1.0
    tree: Tree = NO_TREE
    drafts: bool = False
    attempt: int = 0

    @property
    def shape(self) -> Tree:
        """Of a chain, too."""
        return self.tree if len(self.tree) else Tree.chain(len(self.candidates))

    @property
    def has_tail(self) -> bool:
        """Whether a distribution was cut, so that its distance is known between bounds only."""
        return any(row.tail_mass > 0 for row in self.rows or ())

    def check(self, positions: int, vocabulary_size: int) -> None:
        """Raises ValueError, naming what does not fit, for so many rows of p over such a vocabulary."""
        candidates, rows = self.candidates, self.rows
        if positions != len(candidates) + 1:
            raise ValueError(f"{len(candidates)} candidates need {len(candidates) + 1} rows of p, not {positions}")
        if len(self.tree) not in (0, len(candidates)):
            raise ValueError(f"{len(self.tree)} parents for {len(candidates)} candidates")
        if len(self.tree) and (twin := self.tree.twins(candidates)) is not None:
            raise ValueError(f"candidate {twin} is the same token as an elder sibling")
        outside = [token for token in candidates if not 0 <= token < vocabulary_size]
        if outside:
            raise ValueError(f"candidate {outside[0]} is outside the vocabulary of {vocabulary_size}")
        if rows is not None and len(rows) != len(candidates):
            raise ValueError(f"{len(rows)} distributions for {len(candidates)} candidates")
        if self.rule.draws_residuals:
            if rows is None and candidates:
                raise ValueError(f"rule {self.rule.value} needs the distribution of every candidate")
            if self.has_tail:
                raise ValueError(f"rule {self.rule.value} needs distributions without a tail")


@dataclass(frozen=True, slots=True)
class Token:
    """One token of plain decoding; log probability and entropy in nats. model: of the model itself, where asked for.
    features: where asked for, float16 [m, H] on the host, the last of them what the token was drawn from."""

    token_id: int
    log_probability: float
    entropy: float
    row: CompressedRow | None
    model: PositionLogProbabilities | None = None
    features: Tensor | None = None


@dataclass(slots=True)
class BlockNumbers:
    """Columns over a block of n candidates; (n) has an entry per candidate, (n + 1) one per position.

    They are the columns of `VerifiedBlock` in target.proto, which says what each holds. Logarithms and entropies in
    nats, distances in [0, 1]. total_variations and distances are empty where no rows were given, rows where none were
    asked for.
    """

    acceptance: list[float]  # (n)
    corrections: list[int]  # (n)
    target_tokens: list[int]  # (n + 1)
    log_p: list[float]  # (n)
    max_log_p: list[float]  # (n + 1)
    target_log_p: list[float]  # (n + 1)
    correction_log_p: list[float]  # (n)
    entropies: list[float]  # (n + 1)
    top3_entropies: list[float]  # (n + 1)
    in_support: list[bool]  # (n)
    total_variations: list[float] = field(default_factory=list)  # (n)
    distances_lower: list[float] = field(default_factory=list)  # (n)
    distances_upper: list[float] = field(default_factory=list)  # (n)
    rows: list[CompressedRow] = field(default_factory=list)  # (n + 1)
