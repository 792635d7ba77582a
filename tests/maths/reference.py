"""Distances and entropies by their definitions, number by number in Python's floats with exact summation."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def entropy_nats(p: Sequence[float]) -> float:
    return -math.fsum(a * math.log(a) for a in p if a > 0)


def divergence_bits(p: Sequence[float], q: Sequence[float]) -> float:
    """Jensen-Shannon, by Kullback-Leibler divergences from the mean."""

    def half(a: float, b: float) -> float:
        # A quotient too large for a float belongs to an entry that is 0 beside the other one.
        return a * math.log2(2 / (1 + b / a)) / 2 if a > 0 and b / a < math.inf else 0.0

    return math.fsum(half(a, b) + half(b, a) for a, b in zip(p, q, strict=True))


def distance(p: Tensor, q: Tensor) -> float:
    return math.sqrt(min(1.0, max(0.0, divergence_bits(p.tolist(), q.tolist()))))


def variation(p: Tensor, q: Tensor) -> float:
    return math.fsum(abs(a - b) for a, b in zip(p.tolist(), q.tolist(), strict=True)) / 2
