"""What a follower has to know of a step: all of it in one message, so that it need not remember anything."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import chain
from typing import Any

from tandem.inference.step import Part
from tandem.trees import Tree


@dataclass(frozen=True, slots=True)
class Placed:
    """One sequence's tokens in a step, `count` behind `length` cached ones, and the runs of entries [start, stop) that
    hold them all. In the place of its `BlockTable`, which only the leader has. parents: of the tree that they end
    with."""

    length: int
    count: int
    runs: Seq[tuple[int, int]]
    parents: tuple[int, ...] = ()

    @property
    def tree(self) -> Tree:
        return Tree(self.parents)

    @property
    def positions(self) -> list[int]:
        """Of its tokens."""
        end = self.length + self.count
        text = end - len(self.parents)
        return [*range(self.length, text), *self.tree.positions(text)[max(0, self.length - text) :]]

    def extents(self, count: int) -> Iterator[tuple[int, int]]:
        """Those of the first `count` positions, which are all."""
        return iter(self.runs)

    def slots(self, first: int, count: int) -> list[int]:
        """Entries of positions [first, first + count)."""
        slots: list[int] = []
        begin, end = first, first + count
        for start, stop in self.runs:
            size = stop - start
            slots.extend(range(start + min(max(begin, 0), size), start + min(max(end, 0), size)))
            begin, end = begin - size, end - size
        return slots


@dataclass(frozen=True, slots=True)
class StepMessage:
    """tokens: of all parts, in their order. wanted: rows of logits. copies: (from, to, count) of cache blocks, and of
    single entries, (from, to, 0), before anything else, in that order."""

    tokens: Seq[int]
    wanted: Seq[int]
    parts: Seq[Placed]
    copies: Seq[tuple[int, int, int]]

    @classmethod
    def of(
        cls, tokens: Seq[int], wanted: Seq[int], parts: Seq[Part], copies: Seq[tuple[int, int, int]]
    ) -> StepMessage:
        placed = [Placed(part.past, part.count, part.extents, part.tree.parents) for part in parts]
        return cls(tokens, wanted, placed, copies)

    @property
    def positions(self) -> list[int]:
        return [at for part in self.parts for at in part.positions]

    def encode(self) -> bytes:
        """Numbers of 8 bytes in the machine's order, each list behind its length."""
        numbers = array("q", (len(self.tokens), *self.tokens, len(self.wanted), *self.wanted, len(self.copies)))
        numbers.extend(chain.from_iterable(self.copies))
        numbers.append(len(self.parts))
        for part in self.parts:
            numbers.extend((part.length, part.count, len(part.runs), *chain.from_iterable(part.runs)))
            numbers.extend((len(part.parents), *part.parents))
        return numbers.tobytes()

    @classmethod
    def decode(cls, data: bytes) -> StepMessage:
        numbers, at = array("q", data), 0

        def take(count: int) -> Seq[int]:
            nonlocal at
            at += count
            return numbers[at - count : at]

        def take_tuples(count: int, size: int) -> list[Any]:
            each = iter(take(count * size))
            return list(zip(*[each] * size, strict=True))

        tokens = list(take(*take(1)))
        wanted = list(take(*take(1)))
        copies = take_tuples(take(1)[0], 3)
        parts = []
        for _ in range(*take(1)):
            length, count, runs = take(3)
            extents = take_tuples(runs, 2)
            parts.append(Placed(length, count, extents, tuple(take(*take(1)))))
        return cls(tokens, wanted, parts, copies)
