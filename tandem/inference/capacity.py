"""How much memory a key-value cache may take."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from tandem.inference.cache import EntryShape
from tandem.inference.table import BLOCK_SIZE
from tandem.models import ModelError

# Of the CPU's memory that is available, since other services and programs live there too, and at most so much.
_CPU_SHARE = 0.25
_CPU_MOST = 4 << 30
# Four million tokens; looking through more blocks takes longer than a step should.
_MOST_BLOCKS = 1 << 18
#: Of the GPU's memory that the weights leave; the rest is for what a step computes.
GPU_SHARE = 0.85


def blocks_for(
    shape: EntryShape, device: torch.device, *, cache_bytes: int | None, gpu_share: float, sharers: int = 1
) -> int:
    """Blocks of a cache. cache_bytes: what was asked for, None for a share of the memory that is available, divided
    among `sharers` caches.

    Raises ModelError where not even one block fits, or where more is asked for than there is.
    """
    available = available_bytes(device)
    if cache_bytes is None:
        share = gpu_share if device.type == "cuda" else _CPU_SHARE
        most = available if device.type == "cuda" else _CPU_MOST
        cache_bytes = min(most, int(available * share)) // sharers
    elif cache_bytes > available:
        raise ModelError(
            f"a key-value cache of {cache_bytes} bytes does not fit the {available} bytes available on {device};"
            " ask for less"
        )
    block = BLOCK_SIZE * shape.bytes
    if cache_bytes < block:
        raise ModelError(
            f"a key-value cache of {cache_bytes} bytes has not one block of {BLOCK_SIZE} tokens,"
            f" which takes {block} bytes with this model"
        )
    return min(_MOST_BLOCKS, cache_bytes // block)


def available_bytes(device: torch.device) -> int:
    """Memory that is not in use: of the GPU, or of this machine or container."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_machine(), _container())


def _machine() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise ModelError("/proc/meminfo does not say how much memory is available; name the cache's size")


def _container(root: Path = Path("/sys/fs/cgroup")) -> int:
    """What the limit of the control group leaves; version 2 and version 1.

    Pages of files that nobody has used of late count as used there, yet give way when memory is asked for: loading a
    model leaves as many of them as it has bytes.
    """
    for limit, used, statistics, files in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        try:
            most = (root / limit).read_text().strip()
            if most != "max":
                taken = int((root / used).read_text()) - _statistic(root / statistics, files)
                return max(0, int(most) - max(0, taken))
        except (OSError, ValueError):
            continue
    return 1 << 62


def _statistic(path: Path, name: str) -> int:
    """Of lines `name number`, the number; 0 where there is none."""
    try:
        found = re.search(rf"^{name} (\d+)$", path.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
