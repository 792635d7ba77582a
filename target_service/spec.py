"""What is asked of a sequence: how it was opened, and what a round proposes; and what was verified of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from tandem.constraints import Constraint
from tandem.distributions import CompressedRow
from tandem.inference.engine import Timing
from tandem.noise import NoiseStream
from tandem.sampling import SamplingParams
from tandem.trees import NO_TREE, Tree
from target_service.log_probabilities import BlockLogProbabilities
from target_service.verification import BlockNumbers, Rule


class RowFormat(NamedTuple):
    """What to send of p at each position; 0 entries send none."""

    max_entries: int
    mass: float


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """How a sequence was opened. prompt_length: how many of `tokens` penalties take for the prompt.

    max_entries and mass: what to send of p at each position, where a message says nothing else; 0 entries send none.
    constraint: what the text may be; the session's own. log_probabilities: how many of the likeliest tokens to name
    with those of the model; None for nothing of them. drafts: whether another model verifies the text, see `Block`.
    """

    tokens: tuple[int, ...]
    prompt_length: int
    sampling: SamplingParams
    rule: Rule
    noise: NoiseStream
    stop_token_ids: frozenset[int]
    max_entries: int
    mass: float
    constraint: Constraint | None = None
    log_probabilities: int | None = None
    drafts: bool = False

    @property
    def format(self) -> RowFormat:
        return RowFormat(self.max_entries, self.mass)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What is to be verified; nothing where the text goes on alone. rows: of q, of each candidate, None where none were
    sent. wanted: of p; as the sequence was opened with where it is None. tree: the candidates' shape where they are
    one; not together with a grammar (see `TargetSession.makes_trees`). scores: of the candidates, where some may be
    left off from the end (see `scores`); none of a tree. attempt: the round. features: of how many positions features
    are wanted, the first of the block's and those before it; 0 for none."""

    candidates: Sequence[int] = ()
    rows: Sequence[CompressedRow] | None = None
    wanted: RowFormat | None = None
    tree: Tree = NO_TREE
    scores: Sequence[float] = ()
    attempt: int = 0
    features: int = 0


@dataclass(slots=True)
class Verified:
    """The numbers of a block, those of the model itself where asked for, and the time that they took. considered:
    candidates that they are of, from the block's start; the others were left off. features: where asked for, float16
    [m, H] on the host, the last n + 1 of the block's positions."""

    numbers: BlockNumbers
    timing: Timing
    model: BlockLogProbabilities | None
    considered: int
    features: Tensor | None = None
