"""One sequence in a model: its text, and how much of it is in the cache."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable
from collections.abc import Sequence as Seq

from torch import Tensor

from tandem.inference.table import BlockTable
from tandem.trees import NO_TREE, Tree

_numbers = itertools.count()


class SequenceClosedError(ValueError):
    """The sequence has been closed."""


class Sequence:
    """The tokens that have been fed. Of these the first `cached` have their keys and values in the cache; the others
    are not there yet, or had to give way, and are run again when the sequence goes on.

    number: later sequences have larger ones. rank: who goes first, smaller before larger. last_step: the scheduler's,
    in which something of it was run. last_used, deadline: of `time.monotonic()`; when somebody last asked something of
    it or took a branch of it, and after which nothing more is run of it.
    root: whose text it was forked from for what may become of it; None for none. branches: open ones of this one.
    tree: what its last tokens are, where they are not one text: candidates of which `keep_path` keeps one path.
    states_from: from which of its tokens on the model's last hidden state [H] is noted, in `states` by the token's
    place among those fed, until somebody takes them; infinite for none.
    """

    def __init__(self, table: BlockTable, priority: int = 0, *, root: Sequence | None = None) -> None:
        """priority: larger ones go before smaller ones, and older ones before younger. A branch goes last."""
        self.number = next(_numbers)
        self.rank: tuple[float, int] = (-priority if root is None else math.inf, self.number)
        self.root = root
        self.branches: set[Sequence] = set()
        self.tokens: list[int] = []
        self.tree = NO_TREE
        self.table = table
        self.closed = False
        self.last_used = time.monotonic()
        self.last_step = 0
        self.deadline = math.inf
        self.states_from: float = math.inf
        self.states: dict[int, Tensor] = {}

    @property
    def is_branch(self) -> bool:
        return self.root is not None

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

    @property
    def text_length(self) -> int:
        """Tokens fed that are of no tree."""
        return len(self.tokens) - len(self.tree)

    def positions(self, start: int, stop: int) -> list[int]:
        """Absolute positions of the tokens [start, stop)."""
        text = self.text_length
        of_tree = self.tree.positions(text)[max(0, start - text) : max(0, stop - text)]
        return [*range(start, min(stop, text)), *of_tree]

    def tree_until(self, stop: int) -> Tree:
        """The tree that the first `stop` tokens end with."""
        return self.tree if stop >= len(self.tokens) else self.tree.cut(max(0, stop - self.text_length))

    def extend(self, token_ids: Iterable[int], parents: Iterable[int] = ()) -> None:
        """parents: of the last tokens, where they are candidates of a tree; see `runner.Block`."""
        self.tokens.extend(token_ids)
        if parents := tuple(parents):
            self.tree = Tree((*self.tree.parents, *parents))

    def advance(self, count: int, unconfirmed: int) -> None:
        """The next `count` tokens are in the cache now.

        unconfirmed: how many of the last tokens may soon be truncated, so that they are not worth finding again.
        """
        self.table.advance(count)
        if not self.is_branch:  # most branches come to nothing: what they hold is not worth finding
            self.table.name(self.tokens, min(len(self.tokens) - unconfirmed, self.text_length))

    def truncate(self, length: int, *, keep: bool = False) -> None:
        """Forgets all but the first `length` tokens; nothing is copied. Room that was made for more is given up.

        keep: whether the cache may keep the others, for whoever comes with the same text. Raises ValueError where
        there are fewer.
        """
        if not 0 <= length <= len(self.tokens):
            raise ValueError(f"cannot cut {len(self.tokens)} tokens to {length}")
        if len(self.tree):
            self.tree = self.tree.cut(max(0, length - self.text_length))
        del self.tokens[length:]
        self.table.truncate(min(length, self.table.length), keep=keep)

    def keep_path(self, tokens: Seq[int]) -> None:
        """Of a tree at its end, keeps the path that goes on as `tokens` do, the whole text with what has become of the
        candidates. Its entries of the cache move up to where the tree began; they are right there, since positions go
        by depth. Nothing where there is no tree."""
        if not len(self.tree):
            return
        text = self.text_length
        path = self.tree.follow(self.tokens[text:], tokens[text:])
        kept = [self.tokens[text + index] for index in path]
        cached = sum(text + index < self.cached for index in path)  # its first ones, since parents come first
        if self.table.move_up(text, path[:cached]):
            self.table.truncate(min(text + cached, self.cached))
        else:
            self.table.truncate(min(text, self.cached))
        self.tree = NO_TREE
        self.tokens[text:] = kept

    def fork(self) -> Sequence:
        """A second sequence of the same text, which shares the blocks of this one. Raises SequenceClosedError."""
        if self.closed:
            raise SequenceClosedError("the sequence is closed")
        return self._forked(Sequence(self.table.fork(), -int(self.rank[0])))

    def branch(self, length: int) -> Sequence:
        """A fork of the first `length` tokens, for what may come after them. It ranks behind all sequences that are
        none, and closes with this one, or with the root of this one. Raises SequenceClosedError, or ValueError where so
        many are not cached."""
        root = self.root or self
        if self.closed or root.closed:
            raise SequenceClosedError("the sequence is closed")
        if not 0 <= length <= self.cached:
            raise ValueError(f"cannot branch after {length} tokens, {self.cached} are cached")
        other = self._forked(Sequence(self.table.fork(), root=root))
        other.truncate(length)
        root.branches.add(other)
        return other

    def become(self, branch: Sequence) -> None:
        """Takes over the text and the cache of one of its branches, which is closed."""
        self.table, branch.table = branch.table, self.table
        self.tree = NO_TREE
        # What was begun and not run is not part of the text.
        self.tokens = branch.tokens[: self.table.length]
        self.last_used = time.monotonic()
        branch.close()

    def drop(self) -> None:
        """Gives way to others: the cache's entries are given up, the text stays. A branch is closed, as it is not
        worth running again."""
        if self.is_branch:
            self.close()
        else:
            self.table.free()

    def close(self) -> None:
        """Frees the cache, also of its branches; nothing can be fed any more. May be called again."""
        self.closed = True
        self.table.free()
        for branch in tuple(self.branches):
            branch.close()
        if self.root is not None:
            self.root.branches.discard(self)

    def _forked(self, other: Sequence) -> Sequence:
        other.tokens = list(self.tokens)
        other.tree = self.tree
        other.deadline = self.deadline
        return other
