"""Pairs of small language models whose next token depends on the last one only, so that every law is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tandem.compression import CompressedRow, law, truncate_law
from tandem.distributions import probabilities
from tandem.sampling import History, SamplingChain, SamplingParams


@dataclass(eq=False)
class Pair:
    """log_p, log_q: fp32 [V, V], row s follows token s. max_entries: what the draft keeps of each row."""

    log_p: Tensor
    log_q: Tensor
    max_entries: int = 1 << 20
    rows: list[CompressedRow] = field(init=False)
    p: Tensor = field(init=False)
    _q: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = [truncate_law(row, self.max_entries) for row in self.log_q]
        self.p = probabilities(self.log_p)
        zeros = torch.zeros(self.size, dtype=torch.float64)
        self._q = [zeros.index_copy(0, *law(row)) for row in self.rows]

    @property
    def size(self) -> int:
        return len(self.log_p)

    def q(self, state: int) -> Tensor:
        """What the draft draws from after `state`: float64 [V]."""
        return self._q[state]

    @staticmethod
    def law_of(row: CompressedRow, size: int) -> Tensor:
        """What a row stands for: float64 [V]."""
        return torch.zeros(size, dtype=torch.float64).index_copy(0, *law(row))

    def joint(self, start: int, length: int) -> Tensor:
        """The target's own law of the next `length` tokens: float64 [V] * length."""
        found = self.p[start]
        for _ in range(length - 1):
            found = found.unsqueeze(-1) * self.p
        return found


def random_pair(
    size: int,
    seed: int,
    *,
    scale: float = 1.2,
    noise: float = 1.0,
    max_entries: int = 1 << 20,
    p_sampling: dict[str, float] | None = None,
    q_sampling: dict[str, float] | None = None,
) -> Pair:
    """Random logits, those of the draft with noise, each through the sampling chain."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, size, generator=generator) * scale
    other = logits + torch.randn(size, size, generator=generator) * noise
    return Pair(_sampled(logits, p_sampling), _sampled(other, q_sampling), max_entries)


def _sampled(logits: Tensor, sampling: dict[str, float] | None) -> Tensor:
    chain = SamplingChain(SamplingParams(**{"temperature": 1.0, **(sampling or {})}), logits.shape[-1])
    # Row by row: a block's rows follow one another, these do not.
    return torch.cat([chain.log_probs(row.unsqueeze(0), History(())) for row in logits])


def with_zeros_in_p(size: int, seed: int) -> Pair:
    """The target forbids tokens that the draft likes."""
    pair = random_pair(size, seed)
    for state, row in enumerate(pair.log_p):
        row[(state + 1) % size] = -math.inf
    return Pair(torch.log_softmax(pair.log_p, -1), pair.log_q)


def equal_pair(size: int) -> Pair:
    """p = q to the last bit, so that nothing is left over: uniform over a power of two."""
    assert size & (size - 1) == 0
    flat = torch.full((size, size), -math.log(size))
    return Pair(flat, flat)


def pairs(size: int) -> dict[str, Pair]:
    """What the exact rules must cope with."""
    return {
        "plain": random_pair(size, 1),
        "far apart": random_pair(size, 2, noise=3.0),
        "sharp": random_pair(size, 3, scale=4.0, noise=4.0),  # logarithms large enough for fp16 to round well
        "top-p": random_pair(size, 4, p_sampling={"top_p": 0.8}, q_sampling={"top_p": 0.8}),
        "top-k": random_pair(size, 5, p_sampling={"top_k": 2}, q_sampling={"top_k": 3}),
        "cut": random_pair(size, 6, max_entries=2),
        "one entry": random_pair(size, 7, max_entries=1),
        "zeros in p": with_zeros_in_p(size, 8),
        "equal": equal_pair(1 << (size - 1).bit_length()),
    }
