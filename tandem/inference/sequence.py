"""One sequence in a model: its text, and how much of it is in the cache."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable

from tandem.inference.table import BlockTable

_numbers = itertools.count()


class SequenceClosedError(ValueError):
    """The sequence has been closed."""


class Sequence:
    """The tokens that have been fed. Of these the first `cached` have their keys and values in the cache; the others
    are not there yet, or had to give way, and are run again when the sequence goes on.

    number: later sequences have larger ones. rank: who goes first, smaller before larger. last_step: the scheduler's,
    in which something of it was run. deadline: of `time.monotonic()`, after which nothing more is run of it.
    """

    def __init__(self, table: BlockTable, priority: int = 0) -> None:
        """priority: larger ones go before smaller ones, and older ones before younger."""
        self.number = next(_numbers)
        self.rank = -priority, self.number
        self.tokens: list[int] = []
        self.table = table
        self.closed = False
        self.last_used = time.monotonic()
        self.last_step = 0
        self.deadline = math.inf

    @property
    def length(self) -> int:
        """Tokens fed."""
        return len(self.tokens)

    @property
    def cached(self) -> int:
        return self.table.length

    @property
    def missing(self) -> int:
        """Tokens fed that are not in the cache."""
        return len(self.tokens) - self.table.length

    def extend(self, token_ids: Iterable[int]) -> None:
        self.tokens.extend(token_ids)

    def advance(self, count: int, unconfirmed: int) -> None:
        """The next `count` tokens are in the cache now.

        unconfirmed: how many of the last tokens may soon be truncated, so that they are not worth finding again.
        """
        self.table.advance(count)
        self.table.name(self.tokens, len(self.tokens) - unconfirmed)

    def truncate(self, length: int, *, keep: bool = False) -> None:
        """Forgets all but the first `length` tokens; nothing is copied. Room that was made for more is given up.

        keep: whether the cache may keep the others, for whoever comes with the same text. Raises ValueError where
        there are fewer.
        """
        if not 0 <= length <= len(self.tokens):
            raise ValueError(f"cannot cut {len(self.tokens)} tokens to {length}")
        del self.tokens[length:]
        self.table.truncate(min(length, self.table.length), keep=keep)

    def fork(self) -> Sequence:
        """A second sequence of the same text, which shares the blocks of this one. Raises SequenceClosedError."""
        if self.closed:
            raise SequenceClosedError("the sequence is closed")
        other = Sequence(self.table.fork(), -self.rank[0])
        other.tokens = list(self.tokens)
        other.deadline = self.deadline
        return other

    def drop(self) -> None:
        """Gives way to others: the cache's entries are given up, the text stays."""
        self.table.free()

    def close(self) -> None:
        """Frees the cache; nothing can be fed any more. May be called again."""
        self.closed = True
        self.table.free()
