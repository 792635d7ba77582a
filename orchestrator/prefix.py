"""How much of a completion's text a service has been told."""

from __future__ import annotations

from collections.abc import Sequence

from tandem.v1 import block_pb2


class Prefix:
    """Of one stream. tokens: the text, growing as tokens are committed.

    position: how many of them the service holds for sure, those of its last block not counted. kept: how many of that
    block were committed; path: which, where it has parents. taken_back: of what it holds, tokens that are not part of
    the text any more.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self.position = len(tokens)
        self.kept = 0
        self.path: tuple[int, ...] = ()
        self.taken_back = 0

    def is_whole(self) -> None:
        """The service holds all that is committed now."""
        self.position, self.kept, self.path, self.taken_back = len(self._tokens), 0, (), 0

    def decided(self, kept: int, path: tuple[int, ...] = ()) -> None:
        """Of its last block so many candidates are committed."""
        self.kept, self.path = kept, path

    def rewind(self, length: int) -> None:
        """The text was cut to its first `length` tokens; it may have grown again since."""
        self.kept = max(0, min(self.kept, length - self.position))
        self.path = self.path[: self.kept]
        back = max(0, self.position - length)
        self.taken_back += back
        self.position -= back

    def continuation(self) -> block_pb2.Continuation:
        """What the service has to be told before its next block."""
        known = self.position + self.kept
        return block_pb2.Continuation(
            position=known,
            kept=self.kept,
            token_ids=self._tokens[known:],
            path=self.path,
            taken_back=self.taken_back,
        )
