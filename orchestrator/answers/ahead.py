"""What a draft may say unasked: a message when it comes, and of its blocks those that are wanted."""

from __future__ import annotations

from orchestrator.answers.draft import check_block
from orchestrator.answers.numbers import (
    ROUNDING,
    MalformedAnswerError,
    check_tokens,
    most_entropy,
    vocabulary_of,
    within,
)
from orchestrator.look_ahead.foreseen import Base, Foreseen
from tandem.v1 import draft_pb2

# Bytes where LookAhead.max_bytes does not say how many.
_MOST_BYTES = 1 << 20
# Each message has a candidate or an end of one branch at least; there are 64 of these, and as many candidates in each.
_MOST_STALE = 64 * 65


def check_ahead(foreseen: Foreseen, message: draft_pb2.DraftedAhead) -> None:
    """What may be kept until it is known what of it is wanted. foreseen: before it takes the message in. Raises
    MalformedAnswerError."""
    base = foreseen.base
    if base is None or message.round < base.round:
        # It was on its way; of another round than the current one it is not even looked at.
        if foreseen.stale >= _MOST_STALE:
            raise MalformedAnswerError("it says more of old rounds than there can be to say")
        return
    if message.round != base.round:
        raise MalformedAnswerError(f"it looks ahead of round {message.round}, which nobody has asked for")
    size = foreseen.size + message.ByteSize()
    if size > (base.asked.max_bytes or _MOST_BYTES):
        raise MalformedAnswerError(f"it has drafted {size} bytes ahead, more than it was allowed")
    outcomes = {(branch.kept, branch.token_id) for branch in message.branches}
    if not outcomes or len(outcomes) != len(message.branches):
        raise MalformedAnswerError("it names an outcome twice, or none")
    if len(outcomes | foreseen.outcomes) > base.asked.max_branches:
        raise MalformedAnswerError(f"it has blocks for more than {base.asked.max_branches} outcomes")


def check_branch(opening: draft_pb2.DraftOpen, base: Base, branch: draft_pb2.Branch) -> None:
    """opening: of the stream. Raises MalformedAnswerError."""
    vocabulary = vocabulary_of(opening.handshake.expected.vocabulary_size)
    check_tokens((branch.token_id,), vocabulary)
    count = len(branch.block.token_ids)
    if branch.kept > base.most_kept:
        raise MalformedAnswerError(f"it keeps {branch.kept} candidates where {base.most_kept} were asked for")
    if branch.block.position != base.position + branch.kept + 1 + branch.sent:
        raise MalformedAnswerError(f"a block ahead is for position {branch.block.position}")
    if branch.sent + count > base.asked.limits.max_tokens:
        raise MalformedAnswerError(f"a block ahead has {branch.sent + count} candidates")
    if not count and branch.stop == draft_pb2.DRAFT_STOP_UNSPECIFIED:
        raise MalformedAnswerError("a block ahead has not grown")
    if branch.block.parents:
        raise MalformedAnswerError("a block ahead is a tree")
    if not within([branch.refused_entropy], -ROUNDING, most_entropy(vocabulary)):
        raise MalformedAnswerError("an entropy is not one")
    check_block(opening, branch.block)
