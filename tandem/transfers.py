"""Between host and device without waiting in between: numbers go up from pinned memory and come back in one piece.

A step's computations are queued on the device while the forward pass still runs; anything that reads a number on the
way (`item`, `tolist`, a branch on a tensor, a boolean mask as an index) would wait for the pass to end. So what the
host knows beforehand is uploaded, and all results come back through one call of `to_host`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# Entries of [n, V] tensors to compute with at once on the CPU. With more, temporaries leave its cache, and are so large
# that the C library returns each to the system: clearing new pages then takes longer than computing.
_ENTRIES = 600_000


def upload(values: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of a host's numbers on the device, of the shape of the (nested) sequence, array or tensor."""
    host = torch.as_tensor(values, dtype=dtype)
    if device.type == "cuda":
        return host.pin_memory().to(device, non_blocking=True)  # a copy from pageable memory waits
    return host.to(device)


def to_host(groups: Sequence[Mapping[str, Tensor]]) -> list[Mapping[str, Tensor]]:
    """The same tensors on the CPU by one transfer: as float64, each in its own shape. What is there already stays.

    Exact for all float types, for booleans (0 and 1) and for integers of at most 2**53.
    """
    tensors = [tensor for group in groups for tensor in group.values()]
    if all(tensor.is_cpu for tensor in tensors):
        return list(groups)
    sizes = [tensor.numel() for tensor in tensors]
    packed = torch.empty(sum(sizes), dtype=torch.float64, device=tensors[0].device)
    torch.cat([tensor.flatten() for tensor in tensors], out=packed)
    parts = iter(torch.split_with_sizes(packed.cpu(), sizes))
    return [{name: next(parts).view_as(tensor) for name, tensor in group.items()} for group in groups]


def join(parts: Sequence[Tensor]) -> Tensor:
    """`torch.cat` of [n_i, V] tensors, without its copy where they lie side by side in one tensor. Not to be written.

    A model's logits of several sequences are views of one tensor; a copy of them costs a tenth of all that follows.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    storage, follows = first.untyped_storage().data_ptr(), first.data_ptr()
    for part in parts:
        if part.untyped_storage().data_ptr() != storage or part.data_ptr() != follows or not part.is_contiguous():
            return torch.cat(list(parts))
        follows += part.numel() * part.element_size()
    return first.as_strided((sum(map(len, parts)), first.shape[-1]), (first.shape[-1], 1))


def portions(parts: Sequence[Tensor]) -> list[slice]:
    """Runs of [n_i, V] tensors to compute with together: all at once on a device, as many as pay on the CPU."""
    found, start, entries = [], 0, 0
    for index, part in enumerate(parts):
        if index > start and part.is_cpu and entries + part.numel() > _ENTRIES:
            found.append(slice(start, index))
            start, entries = index, 0
        entries += part.numel()
    return [*found, slice(start, len(parts))]
