"""Blocks that the draft has made ahead: for outcomes of its last block, what would come next. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field

from orchestrator.blocks import first
from tandem.block_limits import Limiter
from tandem.v1 import block_pb2, draft_pb2

Outcome = tuple[int, int]  # candidates that are kept, and the token that follows them

# What ends a block whatever its limits are.
_FINAL = frozenset({
    draft_pb2.DRAFT_STOP_END_TOKEN, draft_pb2.DRAFT_STOP_CONTEXT, draft_pb2.DRAFT_STOP_NO_PROPOSAL,
})  # fmt: skip
# What says nothing of whether a longer block would be worth its time.
_OPEN = frozenset({draft_pb2.DRAFT_STOP_UNSPECIFIED, draft_pb2.DRAFT_STOP_MAX_TOKENS})


def _trusts(base: Base, branch: draft_pb2.Branch) -> None:
    """Nothing is wrong with it."""


@dataclass(frozen=True, slots=True)
class Base:
    """The block whose outcomes are foreseen. position: of its first candidate. most_kept: candidates that it may have.
    asked: what may be drafted ahead of it. check: of what is to be used; raises where that cannot be."""

    round: int
    position: int
    most_kept: int
    asked: draft_pb2.LookAhead
    check: Callable[[Base, draft_pb2.Branch], None] = _trusts


@dataclass(slots=True)
class Ahead:
    """A block for one outcome. stop: which limit ended it; UNSPECIFIED while it may grow. refused_entropy: in nats, of
    the place before which a limit ended it."""

    block: block_pb2.Block
    stop: draft_pb2.DraftStop.ValueType = draft_pb2.DRAFT_STOP_UNSPECIFIED
    refused_entropy: float | None = None


@dataclass(slots=True)
class Pushed:
    """Counts over all bases. messages, size: of those that were in time, and their bytes. tokens: candidates in them.
    stale: messages of an older base."""

    messages: int = 0
    size: int = 0
    tokens: int = 0
    stale: int = 0


@dataclass(slots=True)
class Foreseen:
    """What was pushed for the current base; of nothing until `begin`. size, stale: bytes and messages since then.

    Of many blocks one is used at most, so that only that one is looked into.
    """

    pushed: Pushed = field(default_factory=Pushed)
    base: Base | None = None
    size: int = 0
    stale: int = 0
    _parts: dict[Outcome, list[draft_pb2.Branch]] = field(default_factory=dict)  # likeliest first

    @property
    def is_served(self) -> bool:
        """Whether anything has ever come: many a draft does not look ahead."""
        return self.pushed.messages + self.pushed.stale > 0

    @property
    def outcomes(self) -> Set[Outcome]:
        """Of which something has come."""
        return self._parts.keys()

    def begin(self, base: Base | None) -> None:
        """Another block is asked for or taken: what comes from now on speaks of it, or is of no use. None: nothing is
        to be foreseen."""
        self.base, self.size, self.stale, self._parts = base, 0, 0, {}

    def add(self, message: draft_pb2.DraftedAhead) -> None:
        """A message that may be kept."""
        if self.base is None or message.round != self.base.round:
            self.stale += 1
            self.pushed.stale += 1
            return
        size = message.ByteSize()
        self.size += size
        self.pushed.size += size
        self.pushed.messages += 1
        for branch in message.branches:
            self.pushed.tokens += len(branch.block.token_ids)
            self._parts.setdefault((branch.kept, branch.token_id), []).append(branch)

    def take(self, outcome: Outcome) -> Ahead | None:
        """What was foreseen for it; None where that is nothing, or has a hole, or does not end where it has ended.
        Raises what the check of its base raises."""
        parts = self._parts.get(outcome)
        if not parts or self.base is None:
            return None
        ahead = Ahead(block_pb2.Block(position=parts[0].block.position))
        for part in parts:
            self.base.check(self.base, part)
            if not _grow(ahead, part):
                return None
        return ahead

    def tokens_after(self, kept: int) -> list[int]:
        """Tokens that were foreseen to follow so many, likeliest first."""
        return [token for count, token in self._parts if count == kept]


def _grow(ahead: Ahead, more: draft_pb2.Branch) -> bool:
    """False where that cannot follow."""
    block, there = ahead.block, len(ahead.block.token_ids)
    is_over = ahead.stop != draft_pb2.DRAFT_STOP_UNSPECIFIED
    is_mixed = there and more.block.token_ids and bool(block.distributions) != bool(more.block.distributions)
    if is_over or is_mixed or more.sent != there:
        return False
    for column in ("token_ids", "log_probabilities", "entropies", "distributions"):
        getattr(block, column).extend(getattr(more.block, column))
    ahead.stop = more.stop
    if more.HasField("refused_entropy"):
        ahead.refused_entropy = more.refused_entropy
    return True


@dataclass(frozen=True, slots=True)
class Cut:
    """As much of a block that was made ahead as the limits of its round allow. is_whole: whether an asked-for block
    would have been the same, lengths included. is_ended: whether limits ended it, also those that it was made under."""

    block: block_pb2.Block
    is_whole: bool
    is_ended: bool
    stop: draft_pb2.DraftStop.ValueType


def cut(ahead: Ahead, limits: draft_pb2.DraftLimits) -> Cut:
    """Candidate by candidate, as the draft itself ends a block: whether one is part of it depends on its distribution
    and on those before, never on itself (section 3 of Leviathan et al., arXiv 2211.17192, asks for that)."""
    block, limiter = ahead.block, Limiter(limits)
    for index in range(min(len(block.token_ids), limits.max_tokens)):
        if limiter.refuses(block.entropies[index]):
            return Cut(first(block, index), True, True, draft_pb2.DRAFT_STOP_ENTROPY_BEFORE)
        is_last = ahead.stop in _FINAL and index + 1 == len(block.token_ids)
        stop = limiter.after(block.entropies[index], block.log_probabilities[index])
        if stop is not None and not is_last:
            return Cut(first(block, index + 1), True, True, stop)
    if limits.max_tokens < len(block.token_ids):
        return Cut(first(block, limits.max_tokens), True, True, draft_pb2.DRAFT_STOP_MAX_TOKENS)
    is_refused = ahead.refused_entropy is not None and limiter.refuses(ahead.refused_entropy)
    is_whole = len(block.token_ids) == limits.max_tokens or ahead.stop in _FINAL or is_refused
    return Cut(block, is_whole, is_whole or ahead.stop not in _OPEN, ahead.stop)
