"""The blocks that a key-value cache is divided into: who holds which, what they contain, which go first.

Bookkeeping only, no tensors. Paged caches: Kwon et al., SOSP 2023 (arXiv 2309.06180). Where a block lies matters on a
CPU: a sequence whose blocks follow each other is attended to in place, so blocks are handed out in runs.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable

_RUN = re.compile(b"\x01+")
# Of the pool, kept clear of idle blocks where more is asked for, so that runs of free ones are found.
_CLEAR_SHARE = 8


class BlockPool:
    """`count` blocks. Each is free, held (by one sequence or shared by several), or idle.

    Idle: held by nobody, but what it contains is known by its key, so that a sequence that begins alike can take it
    again. Idle blocks are given up when free ones run out, the least recently held first.
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"a pool needs at least one block, not {count}")
        self.count = count
        self._free = bytearray(b"\x01" * count)
        self._free_count = count
        self._holders = [0] * count
        self._keys: list[bytes | None] = [None] * count
        self._by_key: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # the least recently held first

    @property
    def available(self) -> int:
        """Blocks that can be allocated: free and idle ones."""
        return self._free_count + len(self._idle)

    @property
    def held(self) -> int:
        """Blocks that sequences hold; one that several share counts once."""
        return self.count - self.available

    @property
    def idle(self) -> int:
        return len(self._idle)

    def can_allocate(self, count: int) -> bool:
        return count <= self.available

    def allocate(self, count: int, after: int | None = None) -> list[int]:
        """Takes `count` blocks, following block `after` and each other as far as possible.

        Raises ValueError where `can_allocate` would have said no.
        """
        if not self.can_allocate(count):
            raise ValueError(f"{count} blocks were asked for, {self.available} are available")
        self._clear(count)
        taken: list[int] = []
        if after is not None:
            while len(taken) < count and after + 1 < self.count and self._free[after + 1]:
                after += 1
                taken.append(self._take(after))
        while len(taken) < count:
            start, length = self._largest_run()
            needed = count - len(taken)
            # In the middle of what is left of the largest run: whoever ends in front of it can still grow.
            start += max(0, length - needed) // 2
            taken.extend(self._take(block) for block in range(start, start + min(needed, length)))
        return taken

    def retain(self, block: int) -> None:
        """One more holder of a block that is held."""
        if self._holders[block] < 1:
            raise ValueError(f"block {block} is not held")
        self._holders[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """One holder less of each. The last one's block becomes idle where its content is known, else free."""
        for block in blocks:
            if self._holders[block] < 1:
                raise ValueError(f"block {block} is not held")
            self._holders[block] -= 1
            if self._holders[block] == 0:
                if self._keys[block] is None:
                    self._set_free(block)
                else:
                    self._idle[block] = None

    def holders(self, block: int) -> int:
        return self._holders[block]

    def is_shared(self, block: int) -> bool:
        return self._holders[block] > 1

    # What blocks contain.

    def name(self, block: int, key: bytes) -> None:
        """What a held block contains from now on. The first block of a key keeps it; others stay without."""
        if self._holders[block] < 1:
            raise ValueError(f"block {block} is not held")
        if key not in self._by_key:
            self.forget(block)
            self._by_key[key] = block
            self._keys[block] = key

    def forget(self, block: int) -> None:
        """A held block is about to be written to: nobody may find it by what it contained."""
        key = self._keys[block]
        if key is not None:
            self._keys[block] = None
            del self._by_key[key]

    def take(self, key: bytes) -> int | None:
        """The block that contains what `key` stands for, with one holder more; None where there is none."""
        block = self._by_key.get(key)
        if block is not None:
            self._holders[block] += 1
            self._idle.pop(block, None)
        return block

    def forget_idle(self) -> None:
        """Gives up all idle blocks."""
        while self._idle:
            self._evict()

    def _clear(self, count: int) -> None:
        """Evicts idle blocks, for `count` free ones and some to spare."""
        spare = self.count // _CLEAR_SHARE
        while self._idle and self._free_count < count + spare:
            self._evict()

    def _evict(self) -> None:
        block, _ = self._idle.popitem(last=False)
        self.forget(block)
        self._set_free(block)

    def _set_free(self, block: int) -> None:
        self._free[block] = 1
        self._free_count += 1

    def _take(self, block: int) -> int:
        self._free[block] = 0
        self._free_count -= 1
        self._holders[block] = 1
        return block

    def _largest_run(self) -> tuple[int, int]:
        """First block and length of the longest run of free blocks."""
        start, end = max((run.span() for run in _RUN.finditer(self._free)), key=lambda span: span[1] - span[0])
        return start, end - start
