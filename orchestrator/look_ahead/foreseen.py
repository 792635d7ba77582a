"""Blocks that the draft has made ahead: for outcomes of its last block, what would come next. Pure: no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

from tandem.block_limits import Limiter
from tandem.v1 import block_pb2, draft_pb2

Outcome = tuple[int, int]  # candidates that are kept, and the token that follows them

# What ends a block whatever its limits are.
_FINAL = frozenset({
    draft_pb2.DRAFT_STOP_END_TOKEN, draft_pb2.DRAFT_STOP_CONTEXT, draft_pb2.DRAFT_STOP_NO_PROPOSAL,
})  # fmt: skip
# What says nothing of whether a longer block would be worth its time.
_OPEN = frozenset({draft_pb2.DRAFT_STOP_UNSPECIFIED, draft_pb2.DRAFT_STOP_MAX_TOKENS})


@dataclass(frozen=True, slots=True)
class Base:
    """The block whose outcomes are foreseen. position: of its first candidate. most_kept: candidates that it may have.
    asked: what may be drafted ahead of it."""

    round: int
    position: int
    most_kept: int
    asked: draft_pb2.LookAhead


@dataclass(slots=True)
class Ahead:
    """A block for one outcome. stop: which limit ended it; UNSPECIFIED while it may grow. is_broken: an increment was
    missing, so that nothing of it can be used."""

    block: block_pb2.Block
    stop: draft_pb2.DraftStop.ValueType = draft_pb2.DRAFT_STOP_UNSPECIFIED
    is_broken: bool = False


@dataclass(slots=True)
class Pushed:
    """Counts over all bases. messages, size: of those that were in time, and their bytes. tokens: candidates in them.
    stale: messages of an older base. broken: branches that an increment of was missing."""

    messages: int = 0
    size: int = 0
    tokens: int = 0
    stale: int = 0
    broken: int = 0


@dataclass(slots=True)
class Foreseen:
    """What was pushed for the current base; of nothing until `begin`. size, messages, stale: of messages since then.
    """

    pushed: Pushed = field(default_factory=Pushed)
    base: Base | None = None
    size: int = 0
    stale: int = 0
    branches: dict[Outcome, Ahead] = field(default_factory=dict)  # likeliest first

    @property
    def is_served(self) -> bool:
        """Whether anything has ever come: many a draft does not look ahead."""
        return self.pushed.messages + self.pushed.stale > 0

    def begin(self, base: Base | None) -> None:
        """Another block is asked for or taken: what comes from now on speaks of it, or is of no use. None: nothing is
        to be foreseen."""
        self.base, self.size, self.stale, self.branches = base, 0, 0, {}

    def add(self, message: draft_pb2.DraftedAhead) -> None:
        """A message that has been checked."""
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
            self._grow(branch)

    def _grow(self, more: draft_pb2.Branch) -> None:
        outcome = more.kept, more.token_id
        there = self.branches.get(outcome)
        if there is None:
            there = self.branches[outcome] = Ahead(block_pb2.Block(position=more.block.position))
        if there.is_broken:
            return
        is_over = there.stop != draft_pb2.DRAFT_STOP_UNSPECIFIED
        has_rows = bool(there.block.distributions), bool(more.block.distributions)
        is_mixed = bool(there.block.token_ids and more.block.token_ids) and has_rows[0] != has_rows[1]
        if is_over or is_mixed or more.sent != len(there.block.token_ids):
            self.pushed.broken += 1
            there.is_broken = True
            there.block.Clear()
            return
        for column in ("token_ids", "log_probabilities", "entropies", "distributions"):
            getattr(there.block, column).extend(getattr(more.block, column))
        there.stop = more.stop

    def take(self, outcome: Outcome) -> Ahead | None:
        """What was foreseen for it; None where that is nothing, or cannot be used."""
        there = self.branches.get(outcome)
        return None if there is None or there.is_broken else there

    def tokens_after(self, kept: int) -> list[int]:
        """Tokens that were foreseen to follow so many, likeliest first."""
        return [token for count, token in self.branches if count == kept]


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
            return Cut(_first(block, index), True, True, draft_pb2.DRAFT_STOP_ENTROPY_BEFORE)
        is_last = ahead.stop in _FINAL and index + 1 == len(block.token_ids)
        stop = limiter.after(block.entropies[index], block.log_probabilities[index])
        if stop is not None and not is_last:
            return Cut(_first(block, index + 1), True, True, stop)
    if limits.max_tokens < len(block.token_ids):
        return Cut(_first(block, limits.max_tokens), True, True, draft_pb2.DRAFT_STOP_MAX_TOKENS)
    is_whole = len(block.token_ids) == limits.max_tokens or ahead.stop in _FINAL
    return Cut(block, is_whole, is_whole or ahead.stop not in _OPEN, ahead.stop)


def _first(block: block_pb2.Block, count: int) -> block_pb2.Block:
    return block_pb2.Block(
        position=block.position,
        token_ids=block.token_ids[:count],
        log_probabilities=block.log_probabilities[:count],
        entropies=block.entropies[:count],
        distributions=block.distributions[:count],
    )
