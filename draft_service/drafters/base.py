"""What the stream handler needs of a drafter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from draft_service.drafters.drawing import Drawn
from tandem.constraints import Constraint
from tandem.distributions import CompressedRow
from tandem.inference.engine import EngineLoad
from tandem.inference.observer import EngineObserver
from tandem.noise import NoiseStream
from tandem.rpc.errors import TandemError
from tandem.sampling import SamplingParams
from tandem.trees import Tree
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
    """A block in the making; its lists have one entry per candidate, `rows` may have none at all. parents: of a tree,
    whose `rows` have one for each group of siblings; see `Block` in block.proto."""

    token_ids: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    rows: list[CompressedRow] = field(default_factory=list)
    stop: draft_pb2.DraftStop.ValueType = draft_pb2.DRAFT_STOP_MAX_TOKENS
    timing: block_pb2.Timing = field(default_factory=block_pb2.Timing)
    parents: list[int] = field(default_factory=list)


class Ahead(Protocol):
    """A block in the making, for one outcome of the last one: `kept` candidates, then `token_id`."""

    #: Candidates of it that were sent; None where nobody has heard of it. Whoever sends it says so here.
    sent: int | None

    @property
    def kept(self) -> int: ...

    @property
    def token_id(self) -> int: ...

    @property
    def position(self) -> int:
        """Absolute, of the token."""
        ...

    @property
    def stop(self) -> draft_pb2.DraftStop.ValueType | None:
        """Which limit ended it; None while it grows. To be read before `drawn`."""
        ...

    @property
    def drawn(self) -> Sequence[Drawn]: ...

    @property
    def refused(self) -> Drawn | None:
        """What was drawn for the place before which a limit ended it."""
        ...


class DraftSequence(Protocol):
    """One open sequence of a drafter."""

    async def draft(
        self,
        tokens: Sequence[int],
        cached: int,
        round_number: int,
        limits: draft_pb2.DraftLimits,
        *,
        foresees: bool = False,
    ) -> Candidates:
        """Drafts the next block.

        tokens: everything committed, prompt included. cached: how many leading ones a cache may still hold from
        before. round_number: the attempt of the draws. foresees: whether `look_ahead` is to follow.
        """
        ...

    def look_ahead(
        self,
        tokens: Sequence[int],
        round_number: int,
        plan: draft_pb2.LookAhead,
        grown: Callable[[], None],
    ) -> None:
        """Goes on without being asked, for what may become of the last block; or does nothing, where it cannot.

        tokens: everything committed before the block. round_number: of the block. plan: what may be drafted.
        grown: to be called, on any thread, whenever `ahead` has more.
        """
        ...

    def ahead(self) -> Sequence[Ahead]:
        """What has been drafted for what may become of the last block, likeliest first."""
        ...

    def freeze_ahead(self) -> None:
        """No more of that is wanted; what was sent may still come true."""
        ...

    def foreseen(self, position: int, token: int) -> int | None:
        """How many candidates were sent of the block that follows this token at this absolute position; None where no
        such block was sent."""
        ...

    def take(self, position: int, token: int, used: int, tokens: Sequence[int]) -> list[int]:
        """Makes the first `used` candidates of a foreseen block the last block, and returns them. tokens: everything
        committed before it, with `token` at the end."""
        ...

    async def full_rows(self, indices: Sequence[int]) -> list[Tensor]:
        """log q [V] of candidates of the last block. Raises TandemError UNEXPECTED_MESSAGE where none was kept."""
        ...

    def told(self, tokens: Sequence[int], laws: Sequence[CompressedRow]) -> None:
        """Of a drafter that asks for it: p as the target computed it, at the positions of the last of `tokens`, one
        each. tokens: everything committed. To be called before the block that follows is asked for."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class GrowsTrees(Protocol):
    """A sequence of a drafter that makes trees, too; its `ModelInfo.trees` says so."""

    async def draft_tree(
        self,
        tokens: Sequence[int],
        cached: int,
        round_number: int,
        limits: draft_pb2.DraftLimits,
        shape: Tree,
    ) -> Candidates:
        """As `draft`: a tree of at most this shape. limits: act along each path. Nothing is drafted ahead of it, and it
        keeps no full rows. Raises TandemError INVALID_FIELD where the sequence follows one text alone."""
        ...


@runtime_checkable
class TakesFeatures(Protocol):
    """A sequence of a drafter that asks for the target's features."""

    def fed(self, tokens: Sequence[int], features: Tensor) -> None:
        """features: float16 [n, H], before the last n of `tokens`: the state that each was drawn from. tokens:
        everything committed. To be called before the block that follows is asked for."""
        ...


@dataclass(slots=True)
class Counts:
    """Candidates since the start. drawn: before they were asked for. taken: of those, part of a block since: of one
    that was taken, or of one that was asked for and begins with them."""

    drawn: int = 0
    taken: int = 0


class Drafter(Protocol):
    """One per service. target_entries: how many of the target's likeliest tokens it learns from; 0 for none. Where
    `info.fed_with` is set its sequences take the target's features."""

    info: model_pb2.ModelInfo
    counts: Counts
    target_entries: int

    async def open(self, spec: SequenceSpec) -> DraftSequence: ...

    def load(self) -> EngineLoad: ...

    def observe(self, observer: EngineObserver) -> None:
        """Tells it of the engine's steps, where there is an engine."""
        ...

    async def start(self) -> None: ...

    async def close(self) -> None: ...


def no_rows() -> TandemError:
    return TandemError.unexpected_message("this sequence keeps no full rows: its distributions have no tail")
