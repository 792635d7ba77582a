"""What both model services keep of a sequence: its committed tokens, its last block, the cache behind them.

The order of rounds and positions is checked here, once for draft and target: what refers to a prefix that no longer
holds is never acted on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tandem.rpc.errors import TandemError
from tandem.rpc.sampling import check_token_ids
from tandem.v1 import block_pb2


@dataclass(slots=True)
class Progress:
    """tokens: prompt and everything committed since. most_tokens: that there may be. candidates: the last block, not
    committed yet. prompt_length: tokens that cannot be taken back."""

    tokens: list[int]
    vocabulary_size: int
    most_tokens: int
    prompt_length: int = 1
    round: int = -1  # of the last message that was answered; callers may count from 0
    candidates: list[int] = field(default_factory=list)

    @property
    def position(self) -> int:
        """Absolute position of the next token to commit; of the last block's first candidate."""
        return len(self.tokens)

    def is_stale(self, round_number: int) -> bool:
        """Whether a message of this round speaks of what has been answered already."""
        return round_number <= self.round

    def advance(self, round_number: int, continuation: block_pb2.Continuation, *, path: str) -> int:
        """Commits what `continuation` says became of the last block.

        Returns how many leading tokens of the sequence a cache may keep: what was there before the last block, less
        what is taken back, and its kept candidates. Raises TandemError PREFIX_MISMATCH or INVALID_FIELD, nothing
        changed.
        """
        kept, count, back = continuation.kept, len(continuation.token_ids), continuation.taken_back
        if kept > len(self.candidates):
            raise TandemError.invalid_field(
                f"{path}.kept", f"is {kept}, but the last block has {len(self.candidates)} candidates"
            )
        if back and (kept or self.position - back < self.prompt_length):
            raise TandemError.invalid_field(
                f"{path}.taken_back",
                f"is {back}, of {self.position - self.prompt_length} tokens behind the prompt, with {kept} kept",
            )
        expected = self.position + kept - back
        if continuation.position != expected:
            raise TandemError.prefix_mismatch(
                f"{path} does not go on where the sequence is", expected=expected, received=continuation.position
            )
        if expected + count > self.most_tokens:
            raise TandemError.invalid_field(
                f"{path}.token_ids", f"{count} more after {expected} exceed the {self.most_tokens} that there may be"
            )
        follows = list(continuation.token_ids)
        check_token_ids(follows, path=f"{path}.token_ids", vocabulary_size=self.vocabulary_size)
        del self.tokens[expected - kept :]
        self.tokens += self.candidates[:kept] + follows
        self.candidates = []
        self.round = round_number
        return expected
