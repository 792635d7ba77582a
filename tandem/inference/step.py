"""One forward pass: whose tokens lie where in the row, and which entries of the cache each of them sees."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from tandem.inference.cache import KeyValueCache
from tandem.inference.table import BlockTable

# Extents that are attended to one by one, where they lie. A sequence in more pieces is copied together each time.
_MOST_EXTENTS = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """Keys and values [1, kv_heads, n, dim] of the positions from `first` on."""

    first: int
    keys: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class _Run:
    """As a piece, but of all layers."""

    first: int
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


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

    @cached_property
    def runs(self) -> list[_Run]:
        runs, first = [], 0
        for start, stop in self.extents:
            runs.append(_Run(first, *self._cache.views(start, stop)))
            first += stop - start
        return runs

    @property
    def can_be_merged(self) -> bool:
        """Whether attention over each extent by itself adds up: each token must see something of the last one.

        The kernel that says how much each extent weighs is the CPU's, for keys and values of one size.
        """
        start, stop = self.extents[-1]
        shape = self._cache.shape
        return (
            len(self.extents) <= _MOST_EXTENTS
            and self.length - (stop - start) <= self.past
            and self._cache.device.type == "cpu"
            and shape.key_dim == shape.value_dim
        )

    @cached_property
    def entries(self) -> Tensor:
        """Of all positions, int64 [length]."""
        return torch.tensor(self._table.slots(0, self.length), device=self._cache.device)


class Step:
    """The parts of one pass over one cache.

    count: tokens of all parts. windows: by layer that attended, the sliding window it asked for.
    """

    def __init__(self, cache: KeyValueCache, feeds: Seq[tuple[BlockTable, int]]) -> None:
        """feeds: tables with room reserved, and how many tokens each takes, in the row's order."""
        self.windows: dict[int, int | None] = {}
        self._cache = cache
        self._masks: dict[tuple[int, int, int, int | None, int], Tensor] = {}
        ends = accumulate(count for _, count in feeds)
        self.parts = [Part(end - count, count, table, cache) for (table, count), end in zip(feeds, ends, strict=True)]
        slots = [slot for table, count in feeds for slot in table.slots(table.length, count)]
        self.count = len(slots)
        self._slots = torch.tensor(slots, device=cache.device)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Stores the row's keys and values [kv_heads, tokens, dim]."""
        self._cache.write(layer, self._slots, keys, values)

    def pieces(self, part: Part, layer: int, window: int | None, *, whole: bool) -> Seq[Piece]:
        """What the part's tokens may see, in order of position. whole: in one piece at any rate.

        With a window, what no token of the part sees is left out, and there is one piece.
        """
        first = 0 if window is None else max(0, part.past + 1 - window)
        if len(part.extents) == 1:
            run = part.runs[0]
            keys, values = run.keys[layer], run.values[layer]
            return [Piece(first, keys[:, :, first:], values[:, :, first:]) if first else Piece(0, keys, values)]
        if part.can_be_merged and not whole and (window is None or part.length <= window):
            return [Piece(run.first, run.keys[layer], run.values[layer]) for run in part.runs]
        return [Piece(first, *self._cache.gather(layer, part.entries[first:]))]

    def mask(self, part: Part, piece: Piece, window: int | None, groups: int, like: Tensor) -> Tensor | None:
        """What the part's tokens see of the piece, to add to scores: [groups * count, n]; None for all of it.

        groups: how often the part's tokens follow each other as rows. Made once a step, not once a layer.
        """
        size = piece.keys.shape[2]
        last = piece.first + size - 1
        if last <= part.past and (window is None or part.length - piece.first <= window):
            return None
        key = (part.start, piece.first, size, window, groups)
        if key not in self._masks:
            rows = torch.arange(part.past, part.length, device=like.device).unsqueeze(1)
            columns = torch.arange(piece.first, last + 1, device=like.device)
            hidden = columns > rows
            if window is not None:
                hidden |= columns <= rows - window
            mask = like.new_zeros(part.count, size).masked_fill_(hidden, float("-inf"))
            self._masks[key] = mask.repeat(groups, 1)
        return self._masks[key]
