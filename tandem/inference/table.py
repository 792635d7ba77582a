"""The blocks of one sequence: which entries of the cache are its own, which it shares."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from hashlib import blake2b

from tandem.inference.blocks import BlockPool

#: Entries of a block.
BLOCK_SIZE = 16

# Keys are not to be guessed: whoever found a second text with the key of another's would be given its cache.
_SECRET = os.urandom(32)


class BlockTable:
    """Maps the positions of one sequence to entries of the cache; block b holds entries [16 b, 16 b + 16).

    `length` entries are valid. Not safe between threads.
    """

    def __init__(
        self,
        pool: BlockPool,
        copy: Callable[[int, int, int], None],
        move: Callable[[Seq[int], Seq[int]], None] | None = None,
    ) -> None:
        """copy: (from, to, count) copies the first `count` entries of one block to another. move: (from, to) copies
        entries of the cache, all read before any is written; None where nothing moves."""
        self.length = 0
        self.blocks: list[int] = []
        self._pool = pool
        self._copy = copy
        self._move = move
        self._keys: list[bytes] = []  # of the leading blocks whose content has been named
        self._found = 0  # leading blocks that others had filled

    def match(self, tokens: Seq[int], most: int) -> None:
        """Goes on with blocks that others have filled with the same text, as far as there are any.

        tokens: the sequence's, of which at most `most` are taken from the cache.
        """
        while self.length % BLOCK_SIZE == 0 and self.length + BLOCK_SIZE <= most:
            if len(self._keys) < self.length // BLOCK_SIZE:  # not all has been named yet
                return
            key = self._key(tokens, len(self._keys))
            block = self._pool.take(key)
            if block is None:
                return
            self._drop(self.length)
            self.blocks.append(block)
            self._keys.append(key)
            self.length += BLOCK_SIZE
            self._found = len(self.blocks)

    @property
    def must_copy(self) -> bool:
        """Whether the next entry lies in a block that others hold too."""
        index, inside = divmod(self.length, BLOCK_SIZE)
        return bool(inside) and self._pool.is_shared(self.blocks[index])

    def needed(self, count: int) -> int:
        """Blocks that `reserve(count)` allocates."""
        blocks = -(-(self.length + count) // BLOCK_SIZE)
        return max(0, blocks - len(self.blocks)) + (1 if count and self.must_copy else 0)

    def reserve(self, count: int) -> None:
        """Makes room for `count` entries behind the valid ones; a shared last block is copied first.

        Raises ValueError where the pool has fewer than `needed(count)` blocks; nothing has changed then.
        """
        index, inside = divmod(self.length, BLOCK_SIZE)
        if count and inside and inside + count <= BLOCK_SIZE and not self._pool.is_shared(self.blocks[index]):
            self._pool.forget(self.blocks[index])  # most of the time there is room
            del self._keys[index:]
            return
        if not self._pool.can_allocate(self.needed(count)):
            raise ValueError(f"{count} entries need {self.needed(count)} blocks, {self._pool.available} are available")
        if not count:
            return
        if self.must_copy:
            shared = self.blocks[index]
            [own] = self._pool.allocate(1, after=self.blocks[index - 1] if index else None)
            self._copy(shared, own, inside)
            self._pool.release([shared])
            self.blocks[index] = own
        elif inside:
            self._pool.forget(self.blocks[index])
        del self._keys[index:]
        missing = self.needed(count)
        if missing:
            self.blocks.extend(self._pool.allocate(missing, after=self.blocks[-1] if self.blocks else None))

    def advance(self, count: int) -> None:
        """Makes the next `count` reserved entries valid."""
        self.length += count

    def name(self, tokens: Seq[int], length: int) -> None:
        """Lets others find the full blocks among the first `length` valid entries, whose text is `tokens`."""
        for index in range(len(self._keys), min(length, self.length) // BLOCK_SIZE):
            key = self._key(tokens, index)
            self._pool.name(self.blocks[index], key)
            self._keys.append(key)

    def forget(self) -> None:
        """Lets nobody find the blocks any more by what they contain."""
        for block in self.blocks:
            self._pool.forget(block)

    def truncate(self, length: int, *, keep: bool = False) -> None:
        """Keeps the first `length` entries; nothing is copied. Raises ValueError where there are fewer.

        keep: whether the text that is cut off may be found again. Otherwise blocks of it that no other sequence had
        or has are free at once, so that another text can go on in their place.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot cut {self.length} entries to {length}")
        self.length = length
        if not keep:
            for block in self.blocks[max(self._found, -(-length // BLOCK_SIZE)) :]:
                if not self._pool.is_shared(block):
                    self._pool.forget(block)
        self._drop(length)

    def move_up(self, first: int, places: Seq[int]) -> bool:
        """Copies the entries `first` + place to `first`, `first` + 1 and so on; places rise, all of valid entries.
        False, with nothing changed, where others hold a block that would be written to."""
        moved = [(first + place, first + at) for at, place in enumerate(places) if place != at]
        if not moved:
            return True
        blocks = {self.blocks[to // BLOCK_SIZE] for _, to in moved}
        if self._move is None or any(self._pool.is_shared(block) for block in blocks):
            return False
        for block in blocks:
            self._pool.forget(block)
        del self._keys[moved[0][1] // BLOCK_SIZE :]
        sources, targets = ([self.slots(place, 1)[0] for place in column] for column in zip(*moved, strict=True))
        self._move(sources, targets)
        return True

    def fork(self) -> BlockTable:
        """A second table of the same entries. Blocks are shared until one of the two writes to them."""
        other = BlockTable(self._pool, self._copy, self._move)
        kept = self.blocks[: -(-self.length // BLOCK_SIZE)]
        for block in kept:
            self._pool.retain(block)
        other.blocks, other.length = list(kept), self.length
        other._keys = self._keys[: self.length // BLOCK_SIZE]
        other._found = len(kept)
        return other

    def free(self) -> None:
        """Gives up all blocks. What they contain may be found again."""
        self.truncate(0, keep=True)

    def extents(self, count: int) -> Iterator[tuple[int, int]]:
        """Runs of entries [start, stop) of the cache that hold the first `count` positions, in order."""
        start = stop = -1
        for block in self.blocks[: -(-count // BLOCK_SIZE)]:
            if block * BLOCK_SIZE != stop:
                if stop >= 0:
                    yield start, stop
                start = block * BLOCK_SIZE
            stop = (block + 1) * BLOCK_SIZE
        if stop >= 0:
            yield start, stop - (-count % BLOCK_SIZE)

    def slots(self, first: int, count: int) -> list[int]:
        """Entries of the cache that belong to positions [first, first + count)."""
        return [
            self.blocks[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE
            for position in range(first, first + count)
        ]

    def _drop(self, length: int) -> None:
        """Releases the blocks behind the first `length` entries, the last first: they are to be evicted first."""
        kept = -(-length // BLOCK_SIZE)
        if kept < len(self.blocks):
            self._pool.release(reversed(self.blocks[kept:]))
            del self.blocks[kept:]
            self._found = min(self._found, kept)
        del self._keys[length // BLOCK_SIZE :]

    def _key(self, tokens: Seq[int], index: int) -> bytes:
        """Of a block's text and of all before it."""
        before = self._keys[index - 1] if index else b""
        text = array("q", tokens[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]).tobytes()
        return blake2b(before + text, digest_size=16, key=_SECRET).digest()
