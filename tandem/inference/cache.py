"""The memory of the key-value cache: one tensor of keys and one of values for all layers and all sequences."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.inference.blocks import BlockPool
from tandem.inference.table import BLOCK_SIZE, BlockTable
from tandem.transfers import upload


@dataclass(frozen=True, slots=True)
class EntryShape:
    """What one token leaves in the cache: in each of `layers`, `heads` keys of `key_dim` and values of `value_dim`."""

    layers: int
    heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return self.layers * self.heads * (self.key_dim + self.value_dim) * self.dtype.itemsize


class KeyValueCache:
    """`blocks` blocks of entries. Memory of the CPU is taken as entries are first written to."""

    def __init__(self, shape: EntryShape, blocks: int, device: torch.device) -> None:
        """Raises torch.OutOfMemoryError or RuntimeError where the device has not that much."""
        self.shape = shape
        self.device = device
        self.pool = BlockPool(blocks)
        entries = blocks * BLOCK_SIZE
        # A head's entries lie side by side: that is how attention reads them.
        self._keys = torch.empty(shape.layers, shape.heads, entries, shape.key_dim, dtype=shape.dtype, device=device)
        self._values = torch.empty(
            shape.layers, shape.heads, entries, shape.value_dim, dtype=shape.dtype, device=device
        )
        self._layers = list(zip(self._keys.unbind(), self._values.unbind(), strict=True))

    @property
    def block_bytes(self) -> int:
        return BLOCK_SIZE * self.shape.bytes

    @property
    def capacity(self) -> int:
        """Entries that there is room for."""
        return self.pool.count * BLOCK_SIZE

    def table(self) -> BlockTable:
        """An empty sequence's."""
        return BlockTable(self.pool, self._copy, self._move)

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Stores [heads, n, dim] at entries `slots`, int64 [n]."""
        own_keys, own_values = self._layers[layer]
        own_keys.index_copy_(1, slots, keys)
        own_values.index_copy_(1, slots, values)

    def views(self, start: int, stop: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of entries [start, stop), by layer, each a view [1, heads, stop - start, dim]."""
        keys, values = (tensor[:, None, :, start:stop].unbind(0) for tensor in (self._keys, self._values))
        return list(zip(keys, values, strict=True))

    def sections(self, start: int, stop: int, count: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of entries [start, stop) in `count` sections of equal length, by layer, each a view
        [count, heads, n, dim]. Each section begins (stop - start) // count entries after the one before, and its last
        (stop - start) % count are the next one's first."""
        step = (stop - start) // count
        length = stop - start - (count - 1) * step

        def cut(tensor: Tensor) -> tuple[Tensor, ...]:
            entries = tensor[:, :, start:stop]
            layers, heads, _, dim = entries.shape
            by_layer, by_head, by_entry, by_dim = entries.stride()
            shape, strides = (layers, count, heads, length, dim), (by_layer, step * by_entry, by_head, by_entry, by_dim)
            return entries.as_strided(shape, strides).unbind()

        return list(zip(cut(self._keys), cut(self._values), strict=True))

    def gather(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of the keys and values at entries `slots`: [1, heads, n, dim]."""
        keys, values = (tensor.index_select(1, slots) for tensor in self._layers[layer])
        return keys.unsqueeze(0), values.unsqueeze(0)

    def _copy(self, source: int, target: int, count: int) -> None:
        begin, end = source * BLOCK_SIZE, target * BLOCK_SIZE
        for tensor in (self._keys, self._values):
            tensor[:, :, end : end + count] = tensor[:, :, begin : begin + count]

    @torch.inference_mode()  # as the entries were made
    def _move(self, sources: Seq[int], targets: Seq[int]) -> None:
        """Copies entries to others, all read before any is written."""
        slots = upload([list(sources), list(targets)], torch.long, self.device)
        for tensor in (self._keys, self._values):
            tensor.index_copy_(2, slots[1], tensor.index_select(2, slots[0]))
