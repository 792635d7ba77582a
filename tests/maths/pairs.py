"""Pairs of rows that are hard in different ways: peaked, flat, disjoint, with zeros, nearly equal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

KINDS = ("near", "far", "peaked", "flat", "disjoint", "zeros in p", "zeros in q", "steps", "reversed", "one-hot")


def pair(kind: str, seed: int, size: int) -> tuple[Tensor, Tensor]:
    """log p and log q, fp32 [V]."""
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(size, generator=generator)

    def some(share: float) -> Tensor:
        chosen = torch.rand(size, generator=generator) < share
        chosen[int(torch.randint(size, (), generator=generator))] = False  # something must be left
        return chosen

    base = normal() * float(torch.rand((), generator=generator) * 6)
    p, q = {
        "near": lambda: (base, base + normal() * 0.05),
        "far": lambda: (base, normal() * 4),
        "peaked": lambda: (normal() * 12, normal() * 12),
        "flat": lambda: (normal() * 0.01, normal() * 0.3),
        "disjoint": lambda: (base, base),
        "zeros in p": lambda: (base.masked_fill(some(0.6), -math.inf), base + normal()),
        "zeros in q": lambda: (base + normal(), base.masked_fill(some(0.6), -math.inf)),
        # Few distinct values, so that many entries of the tail are as large as the smallest one sent.
        "steps": lambda: ((normal() > 0.5) * 3.0, (normal() > 0) * 2.0 + (normal() > 1) * 2.0),
        "reversed": lambda: (base.sort().values, base.sort(descending=True).values),
        "one-hot": lambda: (base * 1000, base + normal()),
    }[kind]()
    if kind == "disjoint":
        inside = some(0.5)
        inside[int((~inside).nonzero()[0])] = bool(inside.sum() == 0)
        p, q = p.masked_fill(~inside, -math.inf), q.masked_fill(inside, -math.inf)
    return torch.log_softmax(p, -1), torch.log_softmax(q, -1)
