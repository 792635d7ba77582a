"""Noise of many completions at once, by the production code itself: it is arithmetic, so a seed may be an array."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tandem.noise import NoiseStream, Purpose


class Streams(NoiseStream):
    """`NoiseStream` whose seed is a uint64 array; positions and attempts may be arrays of its shape."""

    def __post_init__(self) -> None:
        """An array has no single range to check."""


def streams(seeds: np.ndarray) -> Streams:
    return Streams(seeds.astype(np.uint64))  # type: ignore[arg-type]


def uniforms(seeds: np.ndarray, purpose: Purpose, position: np.ndarray | int, attempt: int = 0) -> Tensor:
    """float64 [n]: what `NoiseStream(seed).uniform(...)` is for each seed."""
    if isinstance(position, np.ndarray):
        position = position.astype(np.uint64)  # type: ignore[assignment]
    return torch.from_numpy(streams(seeds).uniform(purpose, position, attempt))  # type: ignore[arg-type]
