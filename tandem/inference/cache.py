"""The key-value cache of one sequence."""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST_CAPACITY = 256


class KeyValueCache:
    """Keys and values of all layers, contiguous, growing by half when full.

    `length` entries are valid in every layer. A forward pass appends behind them layer by layer and `advance`s at its
    end, so that one that fails leaves the cache as it was.
    """

    def __init__(self, layers: int) -> None:
        self.length = 0
        self._keys: list[Tensor | None] = [None] * layers
        self._values: list[Tensor | None] = [None] * layers

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores [heads, n, dim] behind the valid entries; returns views [heads, length + n, dim] of all of them."""
        end = self.length + keys.shape[1]
        stored_keys = self._keys[layer] = _fit(self._keys[layer], keys, self.length, end)
        stored_values = self._values[layer] = _fit(self._values[layer], values, self.length, end)
        stored_keys[:, self.length : end] = keys
        stored_values[:, self.length : end] = values
        return stored_keys[:, :end], stored_values[:, :end]

    def advance(self, count: int) -> None:
        """Makes what the last pass appended valid."""
        self.length += count

    def truncate(self, length: int) -> None:
        """Keeps the first `length` entries; nothing is copied. Raises ValueError where there are fewer."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot cut {self.length} entries to {length}")
        self.length = length

    def free(self) -> None:
        """Gives the memory back."""
        self.length = 0
        self._keys = [None] * len(self._keys)
        self._values = [None] * len(self._values)

    @property
    def bytes(self) -> int:
        """Memory held, valid or not."""
        return sum(t.numel() * t.element_size() for t in (*self._keys, *self._values) if t is not None)


def _fit(buffer: Tensor | None, like: Tensor, length: int, needed: int) -> Tensor:
    if buffer is not None and buffer.shape[1] >= needed:
        return buffer
    capacity = max(_LEAST_CAPACITY, needed + needed // 2)
    grown = torch.empty(like.shape[0], capacity, like.shape[2], dtype=like.dtype, device=like.device)
    if buffer is not None:
        grown[:, :length] = buffer[:, :length]
    return grown
