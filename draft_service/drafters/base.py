"""What the stream handler needs of a drafter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from tandem.constraints import Constraint
from tandem.distributions import CompressedRow
from tandem.inference.engine import EngineLoad
from tandem.inference.observer import EngineObserver
from tandem.noise import NoiseStream
from tandem.rpc.errors import TandemError
from tandem.sampling import SamplingParams
from tandem.v1 import block_pb2, draft_pb2, model_pb2, sampling_pb2


@dataclass(frozen=True, slots=True)
class SequenceSpec:
    """How a sequence was opened. prompt_length: how many of `tokens` penalties take for the prompt. max_entries and
    mass: what to send of each distribution; 0 entries send none. constraint: what the text may be; the sequence's own.
    priority: who goes first, larger numbers before smaller ones. within: seconds that its caller waits; None where it
    has not said so."""

    tokens: tuple[int, ...]
    prompt_length: int
    sampling: SamplingParams
    verification: sampling_pb2.VerificationRule.ValueType
    noise: NoiseStream
    stop_token_ids: frozenset[int]
    max_entries: int
    mass: float
    constraint: Constraint | None = None
    priority: int = 0
    within: float | None = None


@dataclass(slots=True)
class Candidates:
    """A block in the making; its lists have one entry per candidate, `rows` may have none at all."""

    token_ids: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    rows: list[CompressedRow] = field(default_factory=list)
    stop: draft_pb2.DraftStop.ValueType = draft_pb2.DRAFT_STOP_MAX_TOKENS
    timing: block_pb2.Timing = field(default_factory=block_pb2.Timing)


class DraftSequence(Protocol):
    """One open sequence of a drafter."""

    async def draft(
        self, tokens: Sequence[int], cached: int, round_number: int, limits: draft_pb2.DraftLimits
    ) -> Candidates:
        """Drafts the next block.

        tokens: everything committed, prompt included. cached: how many leading ones a cache may still hold from
        before. round_number: the attempt of the draws.
        """
        ...

    def full_rows(self, indices: Sequence[int]) -> list[Tensor]:
        """log q [V] of candidates of the last block. Raises TandemError UNEXPECTED_MESSAGE where none was kept."""
        ...

    async def close(self) -> None: ...


class Drafter(Protocol):
    """One per service."""

    info: model_pb2.ModelInfo

    async def open(self, spec: SequenceSpec) -> DraftSequence: ...

    def load(self) -> EngineLoad: ...

    def observe(self, observer: EngineObserver) -> None:
        """Tells it of the engine's steps, where there is an engine."""
        ...

    async def start(self) -> None: ...

    async def close(self) -> None: ...


def no_rows() -> TandemError:
    return TandemError.unexpected_message("this sequence keeps no full rows: its distributions have no tail")
