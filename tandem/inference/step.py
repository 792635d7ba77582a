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
from tandem.transfers import upload
from tandem.trees import NO_TREE, Tree

# A sequence in pieces is copied together for each layer, while that costs less than attending to each piece where it
# lies and merging the results: on a CPU, up to about so many bytes of keys and values, and at any rate beyond so many
# pieces.
_MOST_COPIED_BYTES = 1 << 20
_MOST_EXTENTS = 4

# The CPU's kernel has a thread for each key head. Where heads do not fill the threads evenly, keys of a few tokens'
# attention are cut into sections, each of which counts as heads more; what it costs to merge them pays from so many
# entries a section on.
_LEAST_SECTION = 192
_MOST_SECTIONS = 16
_MOST_ROWS_IN_SECTIONS = 8


@dataclass(frozen=True, slots=True)
class Piece:
    """`size` positions from `first` on. at: keys and values [1, kv_heads, size, dim] of a layer."""

    first: int
    size: int
    at: Callable[[int], tuple[Tensor, Tensor]]


class Part:
    """One sequence's tokens: [start, stop) of the row, behind the `past` entries that are cached.

    tree: what the last of its entries are, cached ones among them; none where all are one text. Then an entry's
    position is not its place in the table, and of the tree it sees only itself and what is above it.
    """

    def __init__(
        self, start: int, count: int, table: BlockTable, cache: KeyValueCache, tree: Tree = NO_TREE
    ) -> None:
        """table: with room reserved for `count` entries."""
        self.start = start
        self.stop = start + count
        self.count = count
        self.past = table.length
        self.length = self.past + count
        self.tree = tree
        self.text = self.length - len(tree)  # entries that are not of it
        #: Up to here entries are seen by all of its tokens, windows aside.
        self.seen_by_all = min(self.past, self.text - 1)
        self.extents = list(table.extents(self.length))
        self._table = table
        self._cache = cache

    def pieces(self, window: int | None, *, whole: bool) -> Seq[Piece]:
        """What the part's tokens may see, in order of position. whole: in one piece at any rate.

        With a window, what no token of the part sees is left out, and there is one piece.
        """
        first = self._first(window)
        if len(self.extents) == 1:
            [(start, stop)] = self.extents
            return [self._in_place(first, start + first, stop)]
        if not whole and (window is None or self.length <= window) and self._can_be_merged:
            firsts = accumulate((stop - start for start, stop in self.extents[:-1]), initial=0)
            return [self._in_place(first, *extent) for first, extent in zip(firsts, self.extents, strict=True)]
        entries = torch.tensor(self._table.slots(first, self.length - first), device=self._cache.device)
        return [Piece(first, self.length - first, lambda layer: self._cache.gather(layer, entries))]

    def sections(self, count: int, window: int | None) -> Piece:
        """The same as one piece whose `at` gives `count` sections of it (see KeyValueCache.sections)."""
        [(start, stop)] = self.extents
        first = self._first(window)
        return Piece(first, self.length - first, self._cache.sections(start + first, stop, count).__getitem__)

    def _first(self, window: int | None) -> int:
        """The first position that any of its tokens sees."""
        if window is None:
            return 0
        # Of a tree some entries are cached already, whose places are behind the positions of those to come.
        of_tree = self.tree.positions(self.text)[self.past - self.text :] if self.past > self.text else []
        return max(0, min(of_tree, default=self.past) + 1 - window)

    def _in_place(self, first: int, start: int, stop: int) -> Piece:
        return Piece(first, stop - start, self._cache.views(start, stop).__getitem__)

    @property
    def _can_be_merged(self) -> bool:
        """Whether attention over each extent by itself pays and adds up: each token must see something of the last.

        And of each before it, which the text gives as long as it reaches into the last. The kernel that says how much
        each extent weighs is the CPU's, for keys and values of one size.
        """
        start, stop = self.extents[-1]
        shape = self._cache.shape
        return (
            len(self.extents) <= _MOST_EXTENTS
            and self.length * shape.bytes > _MOST_COPIED_BYTES * shape.layers
            and self.length - (stop - start) <= self.seen_by_all
            and self._cache.device.type == "cpu"
            and shape.key_dim == shape.value_dim
        )


class Step:
    """The parts of one pass over one cache.

    count: tokens of all parts. tokens_each: of each part, None where they differ. windows: by layer that attended, the
    sliding window it asked for.
    """

    def __init__(self, cache: KeyValueCache, feeds: Seq[tuple[BlockTable, int, Tree]]) -> None:
        """feeds: tables with room reserved, how many tokens each takes, in the row's order, and the tree that the last
        entries are with these."""
        self.windows: dict[int, int | None] = {}
        self._cache = cache
        self._sections: dict[int | None, int] = {}
        self._in_sections: dict[tuple[int | None, int], Seq[tuple[Piece, Tensor | None]]] = {}
        self._seen: dict[tuple[int | None, bool, int], Seq[Seq[tuple[Piece, Tensor | None]]]] = {}
        ends = accumulate(count for _, count, _ in feeds)
        self.parts = [
            Part(end - count, count, table, cache, tree)
            for (table, count, tree), end in zip(feeds, ends, strict=True)
        ]
        counts = {part.count for part in self.parts}
        self.tokens_each = counts.pop() if len(counts) == 1 else None
        slots = [slot for table, count, _ in feeds for slot in table.slots(table.length, count)]
        self.count = len(slots)
        self._slots = torch.tensor(slots, device=cache.device)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Stores the row's keys and values [kv_heads, tokens, dim]."""
        self._cache.write(layer, self._slots, keys, values)

    def seen(
        self, window: int | None, queries: Seq[Tensor], *, whole: bool
    ) -> Seq[Seq[tuple[Piece, Tensor | None]]]:
        """What each part sees, in pieces, with the mask of each. Made once a step, not once a layer.

        queries: [1, kv_heads, groups * n, dim] of each part of n tokens. whole: in one piece at any rate.
        """
        key = window, whole, queries[0].shape[2]
        if key not in self._seen:
            self._seen[key] = [
                [(piece, self._mask(part, piece, window, query)) for piece in part.pieces(window, whole=whole)]
                for part, query in zip(self.parts, queries, strict=True)
            ]
        return self._seen[key]

    def seen_in_sections(
        self, window: int | None, queries: Seq[Tensor], count: int
    ) -> Seq[tuple[Piece, Tensor | None]]:
        """As `seen`, of parts in `count` sections each; a mask is [count, 1, groups * n, size of a section]."""
        key = window, queries[0].shape[2]
        if key not in self._in_sections:
            pieces = [part.sections(count, window) for part in self.parts]
            masks = [
                self._section_mask(self._mask(part, piece, window, query), piece.size, count, query)
                for part, piece, query in zip(self.parts, pieces, queries, strict=True)
            ]
            self._in_sections[key] = list(zip(pieces, masks, strict=True))
        return self._in_sections[key]

    def sections(self, window: int | None) -> int:
        """Into how many sections what each part sees is to be cut; 1 for none."""
        if window not in self._sections:
            self._sections[window] = self._best_sections(window)
        return self._sections[window]

    def _best_sections(self, window: int | None) -> int:
        shape = self._cache.shape
        if (
            self.tokens_each is None
            or self.tokens_each > _MOST_ROWS_IN_SECTIONS
            or self._cache.device.type != "cpu"
            or shape.key_dim != shape.value_dim
            or any(len(part.extents) > 1 for part in self.parts)
        ):
            return 1
        lengths = [part.length if window is None else min(part.length, window) for part in self.parts]
        count = balanced_sections(shape.heads, torch.get_num_threads(), sum(lengths) // len(lengths))
        # Each token has to see something of each section.
        hidden = max(part.length - part.seen_by_all for part in self.parts)
        return count if min(lengths) // count > hidden else 1

    @staticmethod
    def _section_mask(mask: Tensor | None, size: int, count: int, query: Tensor) -> Tensor | None:
        """mask: [groups * n, size] or None."""
        step, twice = divmod(size, count)
        if mask is None and not twice:
            return None
        whole = query.new_zeros(query.shape[2], size) if mask is None else mask
        length = size - (count - 1) * step
        sections = torch.stack([whole[:, index * step : index * step + length] for index in range(count)])
        if twice:
            sections[:-1, :, -twice:] = float("-inf")  # the next one has them
        return sections.unsqueeze(1)

    def _mask(self, part: Part, piece: Piece, window: int | None, query: Tensor) -> Tensor | None:
        """What the part's tokens see of the piece, to add to scores: [groups * n, size]; None for all of it."""
        last = piece.first + piece.size - 1
        if last <= part.seen_by_all and (window is None or part.length - piece.first <= window):
            return None
        rows = torch.arange(part.past, part.length, device=query.device).unsqueeze(1)
        columns = torch.arange(piece.first, last + 1, device=query.device)
        hidden = columns > rows
        if len(part.tree):
            _hide_others(hidden, part, piece)
            rows, columns = (_positions(entries, part.tree, part.text) for entries in (rows, columns))
        if window is not None:
            hidden |= columns <= rows - window
        mask = query.new_zeros(part.count, piece.size).masked_fill_(hidden, float("-inf"))
        return mask.repeat(query.shape[2] // part.count, 1)


def _hide_others(hidden: Tensor, part: Part, piece: Piece) -> None:
    """Of a tree: what a token is not, nor stands behind. hidden: [n, size of the piece], changed in place."""
    row, column = max(part.past, part.text), max(piece.first, part.text)
    if column >= piece.first + piece.size:  # it has nothing of the tree
        return
    lineage = upload(part.tree.lineage, torch.bool, hidden.device)
    lineage = lineage[row - part.text :, column - part.text : piece.first + piece.size - part.text]
    hidden[row - part.past :, column - piece.first :] = ~lineage


def _positions(entries: Tensor, tree: Tree, text: int) -> Tensor:
    """Absolute positions of entries, of which those from `text` on are the tree's."""
    own = upload(tree.positions(text), torch.long, entries.device)
    return torch.where(entries < text, entries, own[(entries - text).clamp(min=0)])


def balanced_sections(heads: int, threads: int, length: int) -> int:
    """How many sections of the keys keep the threads busy: the fewest that take at most a tenth more than the best."""
    counts = range(1, max(1, min(_MOST_SECTIONS, length // _LEAST_SECTION)) + 1)
    times = [-(-heads * count // threads) / count for count in counts]  # of the thread with the most to do
    return next(count for count, time in zip(counts, times, strict=True) if time <= 1.1 * min(times))
