"""What both model services keep of a sequence: its committed tokens, its last block, the cache behind them.

The order of rounds and positions is checked here, once for draft and target: what refers to a prefix that no longer
holds is never acted on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tandem.rpc.errors import TandemError
from tandem.rpc.sampling import check_token_ids
from tandem.trees import NO_TREE, Tree
from tandem.v1 import block_pb2


@dataclass(slots=True)
class Progress:
    """tokens: prompt and everything committed since. most_tokens: that there may be. candidates: the last block, not
    committed yet. tree: its shape, where it has parents. prompt_length: tokens that cannot be taken back."""

    tokens: list[int]
    vocabulary_size: int
    most_tokens: int
    prompt_length: int = 1
    round: int = -1  # of the last message that was answered; callers may count from 0
    candidates: list[int] = field(default_factory=list)
    tree: Tree = NO_TREE

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
        most = self.tree.height if len(self.tree) else len(self.candidates)
        if kept > most:
            raise TandemError.invalid_field(
                f"{path}.kept", f"is {kept}, but the last block has {most} candidates" + " on a path" * bool(self.tree)
            )
        taken = self._kept(continuation, path)
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
        self.tokens += taken + follows
        self.candidates, self.tree = [], NO_TREE
        self.round = round_number
        return expected

    def _kept(self, continuation: block_pb2.Continuation, path: str) -> list[int]:
        """The candidates that stay. Raises TandemError INVALID_FIELD."""
        indices = list(continuation.path)
        if not len(self.tree):
            if indices:
                raise TandemError.invalid_field(f"{path}.path", "is of no use: the last block has no parents")
            return self.candidates[: continuation.kept]
        if len(indices) != continuation.kept:
            raise TandemError.invalid_field(f"{path}.path", f"has {len(indices)} candidates, {continuation.kept} kept")
        if not self.tree.is_path(indices):
            raise TandemError.invalid_field(f"{path}.path", f"{indices} is no path from the text down")
        return [self.candidates[index] for index in indices]
