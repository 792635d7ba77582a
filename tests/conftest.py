"""What all tests share: one thread each, since they run side by side, and the `gpu` marker."""

from __future__ import annotations

import os

import pytest

# Before torch is imported anywhere: processes with a thread per core each slow one another down many times.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needs_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not needs_gpu:
        return
    import torch  # only here: most test runs need no torch

    if not torch.cuda.is_available():
        for item in needs_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
