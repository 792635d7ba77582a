"""What was drafted ahead, as it is sent: all that has grown since the last message was written, within a bound."""

from __future__ import annotations

from dataclasses import dataclass

from draft_service.drafters.base import Ahead, Candidates, DraftSequence
from draft_service.drafters.growth import candidates
from tandem.v1 import block_pb2, draft_pb2
from tandem.wire import row_message

# Of a core, by a message: writing and reading it, and waking whoever does.
_MESSAGE_SECONDS = 0.001
# Of one round, where nobody has said how many.
_MOST_BYTES = 1 << 20
# What a message has besides its branches, a branch's place in it, and a token at most: how much is sent must not tell
# what was drawn, or blocks under RATIO and BLOCK would end by it.
_MESSAGE_BYTES = 32
_PLACE_BYTES = 6
_TOKEN_BYTES = 5


@dataclass(slots=True)
class Pushers:
    """All streams that push; streams: how many there are. A message takes the processors' time whatever is in it, which
    steps and asked-for blocks need too: the more streams, the fewer and larger messages of each."""

    streams: int = 0

    @property
    def interval(self) -> float:
        """Seconds from one message of a stream to its next; none where there is no other stream."""
        return max(0, self.streams - 1) * _MESSAGE_SECONDS


class Pushing:
    """Of one stream. One message at a time is on its way: `next`, then `written`."""

    def __init__(self, sequence: DraftSequence) -> None:
        self._sequence = sequence
        self._round: int | None = None
        self._before: int | None = None  # the round before
        self._on_its_way: int | None = None  # of which round a message is
        self._left = 0  # bytes
        self._ended: set[tuple[int, int]] = set()  # branches whose end was told

    def begin(self, round_number: int, position: int, plan: draft_pb2.LookAhead) -> bool:
        """Of a new block. False where the reader does not keep up."""
        if self._on_its_way is not None and self._on_its_way != self._before:
            return False
        self._round = round_number
        self._left = plan.max_bytes or _MOST_BYTES
        self._ended = set()
        return True

    def end(self) -> None:
        """What was sent of the last block is settled."""
        if self._round is not None:
            self._before = self._round
        self._round = None

    def next(self) -> draft_pb2.DraftResponse | None:
        """What has grown; None for nothing."""
        if self._round is None:
            return None
        message = draft_pb2.DraftedAhead(round=self._round)
        for branch in self._sequence.ahead():
            if self._left < _MESSAGE_BYTES or not self._add(message, branch):
                self._left = 0
                self._sequence.freeze_ahead()  # nobody would hear of more
                break
        if not message.branches:
            return None
        self._left -= _MESSAGE_BYTES
        self._on_its_way = self._round
        return draft_pb2.DraftResponse(ahead=message)

    def written(self) -> None:
        self._on_its_way = None

    def _add(self, message: draft_pb2.DraftedAhead, branch: Ahead) -> bool:
        """Adds what has grown of a branch; False where it does not fit."""
        stop = branch.stop  # before `drawn`: what ended it is the last of it
        sent = branch.sent or 0
        drawn = branch.drawn[sent:]
        key = branch.kept, branch.token_id
        if not drawn and (stop is None or key in self._ended):
            return True
        stop = stop or draft_pb2.DRAFT_STOP_UNSPECIFIED
        block = block_message(branch.position + 1 + sent, candidates(drawn, stop))
        tokens = list(block.token_ids)
        del block.token_ids[:]
        part = draft_pb2.Branch(kept=branch.kept, token_id=branch.token_id, sent=sent, block=block, stop=stop)
        if stop == draft_pb2.DRAFT_STOP_ENTROPY_BEFORE and branch.refused is not None:
            part.refused_entropy = branch.refused.entropy
        size = part.ByteSize() + _PLACE_BYTES + _TOKEN_BYTES * (1 + len(tokens))
        if size + _MESSAGE_BYTES > self._left:
            return False
        part.block.token_ids.extend(tokens)
        self._left -= size
        message.branches.append(part)
        branch.sent = sent + len(drawn)
        if stop:
            self._ended.add(key)
        return True


def block_message(position: int, block: Candidates) -> block_pb2.Block:
    return block_pb2.Block(
        position=position,
        token_ids=block.token_ids,
        log_probabilities=block.log_probabilities,
        entropies=block.entropies,
        distributions=[row_message(row) for row in block.rows],
        parents=block.parents,
    )


def drafted_block(round_number: int, position: int, block: Candidates) -> draft_pb2.DraftedBlock:
    return draft_pb2.DraftedBlock(
        round=round_number, block=block_message(position, block), stop=block.stop, timing=block.timing
    )
