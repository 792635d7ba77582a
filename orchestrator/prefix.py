"""How much of a completion's text a service has been told."""

from __future__ import annotations

from collections.abc import Sequence

from tandem.v1 import block_pb2


class Prefix:
    """Of one stream. tokens: the text, growing as tokens are committed.

    position: how many of them the service holds for sure, those of its last block not counted. kept: how many of that
    block were committed; path: which, where it has parents.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self.position = len(tokens)
        self.kept = 0
        self.path: tuple[int, ...] = ()

    def is_whole(self) -> None:
        """The service holds all that is committed now."""
        self.position, self.kept, self.path = len(self._tokens), 0, ()

    def decided(self, kept: int, path: tuple[int, ...] = ()) -> None:
        """Of its last block so many candidates are committed."""
        self.kept, self.path = kept, path

    def continuation(self) -> block_pb2.Continuation:
        """What the service has to be told before its next block."""
        known = self.position + self.kept
        return block_pb2.Continuation(
            position=known, kept=self.kept, token_ids=self._tokens[known:], path=self.path
        )
