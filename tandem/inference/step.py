"""One forward pass: whose tokens lie where in the row, and which entries of the cache each of them sees."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from tandem.inference.cache import KeyValueCache
from tandem.inference.table import BlockTable

# A sequence in pieces is copied together for each layer, while that costs less than attending to each piece where it
# lies and merging the results: on a CPU, up to about so many bytes of keys and values, and at any rate beyond so many
# pieces.
_MOST_COPIED_BYTES = 1 << 20
_MOST_EXTENTS = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """`size` positions from `first` on. at: keys and values [1, kv_heads, size, dim] of a layer."""

    first: int
    size: int
    at: Callable[[int], tuple[Tensor, Tensor]]


class Part:
    """One sequence's tokens: [start, stop) of the row, behind the `past` entries that are cached."""

    def __init__(self, start: int, count: int, table: BlockTable, cache: KeyValueCache) -> None:
        """table: with room reserved for `count` entries."""
        self.start = start
        self.stop = start + count
        self.count = count
        self.past = table.length
        self.length = self.past + count
        self.extents = list(table.extents(self.length))
        self._table = table
        self._cache = cache
        self._pieces: dict[tuple[int | None, bool], Seq[Piece]] = {}

    def pieces(self, window: int | None, *, whole: bool) -> Seq[Piece]:
        """What the part's tokens may see, in order of position. whole: in one piece at any rate.

        With a window, what no token of the part sees is left out, and there is one piece.
        """
        key = window, whole
        if key not in self._pieces:
            self._pieces[key] = self._cut(0 if window is None else max(0, self.past + 1 - window), window, whole)
        return self._pieces[key]

    def _cut(self, first: int, window: int | None, whole: bool) -> Seq[Piece]:
        if len(self.extents) == 1:
            [(start, stop)] = self.extents
            return [self._in_place(first, start + first, stop)]
        if not whole and (window is None or self.length <= window) and self._can_be_merged:
            firsts = accumulate((stop - start for start, stop in self.extents[:-1]), initial=0)
            return [self._in_place(first, *extent) for first, extent in zip(firsts, self.extents, strict=True)]
        entries = torch.tensor(self._table.slots(first, self.length - first), device=self._cache.device)
        return [Piece(first, self.length - first, lambda layer: self._cache.gather(layer, entries))]

    def _in_place(self, first: int, start: int, stop: int) -> Piece:
        return Piece(first, stop - start, self._cache.views(start, stop).__getitem__)

    @property
    def _can_be_merged(self) -> bool:
        """Whether attention over each extent by itself pays and adds up: each token must see something of the last.

        The kernel that says how much each extent weighs is the CPU's, for keys and values of one size.
        """
        start, stop = self.extents[-1]
        shape = self._cache.shape
        return (
            len(self.extents) <= _MOST_EXTENTS
            and self.length * shape.bytes > _MOST_COPIED_BYTES * shape.layers
            and self.length - (stop - start) <= self.past
            and self._cache.device.type == "cpu"
            and shape.key_dim == shape.value_dim
        )


class Step:
    """The parts of one pass over one cache.

    count: tokens of all parts, which may have one each. windows: by layer that attended, the sliding window it asked
    for.
    """

    def __init__(self, cache: KeyValueCache, feeds: Seq[tuple[BlockTable, int]]) -> None:
        """feeds: tables with room reserved, and how many tokens each takes, in the row's order."""
        self.windows: dict[int, int | None] = {}
        self._cache = cache
        self._masks: dict[tuple[int, int, int, int | None, int], Tensor] = {}
        ends = accumulate(count for _, count in feeds)
        self.parts = [Part(end - count, count, table, cache) for (table, count), end in zip(feeds, ends, strict=True)]
        self.is_one_token_each = all(part.count == 1 for part in self.parts)
        slots = [slot for table, count in feeds for slot in table.slots(table.length, count)]
        self.count = len(slots)
        self._slots = torch.tensor(slots, device=cache.device)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Stores the row's keys and values [kv_heads, tokens, dim]."""
        self._cache.write(layer, self._slots, keys, values)

    def mask(self, part: Part, piece: Piece, window: int | None, groups: int, like: Tensor) -> Tensor | None:
        """What the part's tokens see of the piece, to add to scores: [groups * count, n]; None for all of it.

        groups: how often the part's tokens follow each other as rows. Made once a step, not once a layer.
        """
        last = piece.first + piece.size - 1
        if last <= part.past and (window is None or part.length - piece.first <= window):
            return None
        key = (part.start, piece.first, piece.size, window, groups)
        if key not in self._masks:
            rows = torch.arange(part.past, part.length, device=like.device).unsqueeze(1)
            columns = torch.arange(piece.first, last + 1, device=like.device)
            hidden = columns > rows
            if window is not None:
                hidden |= columns <= rows - window
            mask = like.new_zeros(part.count, piece.size).masked_fill_(hidden, float("-inf"))
            self._masks[key] = mask.repeat(groups, 1)
        return self._masks[key]
