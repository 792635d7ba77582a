"""A runner whose cache has a row for each sequence of a batch, all of one size."""

from __future__ import annotations

from tandem.inference.blocks import BlockPool
from tandem.inference.cache import EntryShape, KeyValueCache
from tandem.inference.loaded import LoadedModel
from tandem.inference.runner import ModelRunner
from tandem.inference.table import BLOCK_SIZE
from tandem.models import ModelError


class RowRunner(ModelRunner):
    """rows: of the cache. row_length: tokens that each has room for."""

    def __init__(self, loaded: LoadedModel, rows: int, row_length: int) -> None:
        """Raises what ModelRunner does; ModelError where there is no memory for so many rows."""
        self.rows = rows
        self.row_length = row_length
        super().__init__(loaded)

    def _make_cache(self, shape: EntryShape, cache_bytes: int | None, gpu_share: float) -> KeyValueCache:
        blocks = self.rows * -(-self.row_length // BLOCK_SIZE)
        cache = super()._make_cache(shape, blocks * BLOCK_SIZE * shape.bytes, gpu_share)
        if cache.pool.count < blocks:
            raise ModelError(f"a key-value cache has no room for {self.rows} rows of {self.row_length} tokens")
        cache.pool = _RowPool(blocks)
        return cache


class _RowPool(BlockPool):
    """Hands out what follows, or the first run that is long enough. Where all take rows of one size, rows lie side by
    side and each is in one piece, which attention reads where it lies."""

    def allocate(self, count: int, after: int | None = None) -> list[int]:
        self.forget_idle()  # nothing is looked for again
        wanted = b"\x01" * count
        start = -1 if after is None else after + 1
        if start < 0 or not self._free.startswith(wanted, start):
            start = self._free.find(wanted)
        if start < 0:
            return super().allocate(count, after)
        return [self._take(block) for block in range(start, start + count)]
