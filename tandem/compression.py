"""Distributions cut to their head, as they travel: `CompressedRow`, with log-probabilities rounded to fp16.

The law that a row stands for is `law(row)`, computed from the rounded numbers: under ratio rules the draft samples
from exactly that (`truncate_law`), elsewhere (`compress`) it is the head of the law of the whole row rounded alike
(`full_law`). Bounds of distances from a row with a tail are in `tandem.brackets`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# exp of less is 0 in float64; an entry of a row must have a probability.
_LEAST_LOG = -700.0


@dataclass(frozen=True, slots=True, eq=False)
class CompressedRow:
    """The head of a distribution, likeliest first.

    token_ids: int64 [k]. log_probs: fp16 [k], finite, at most 0, natural logarithms. tail_mass: probability of all
    tokens not listed, a float32 value in [0, 1]; 0 iff the list is the whole support, as far as float32 can tell.
    """

    token_ids: Tensor
    log_probs: Tensor
    tail_mass: float

    def to_bytes(self) -> tuple[bytes, bytes]:
        """Token ids (unsigned 32-bit) and log-probabilities (half precision), both little-endian."""
        return self.token_ids.cpu().numpy().astype("<u4").tobytes(), half_to_bytes(self.log_probs)

    @classmethod
    def from_bytes(
        cls, token_ids: bytes, log_probs: bytes, tail_mass: float, vocabulary_size: int
    ) -> CompressedRow:
        """The inverse of `to_bytes`, on the CPU. Raises ValueError, naming the problem, for anything else."""
        if len(token_ids) % 4 or len(log_probs) != len(token_ids) // 2:
            raise ValueError(f"{len(token_ids)} bytes of token ids and {len(log_probs)} of log-probabilities")
        if not token_ids:
            raise ValueError("no entries")
        # NumPy: this is between two messages of a round, and torch takes twice as long for so few numbers.
        ids = np.frombuffer(token_ids, "<u4").astype(np.int64)
        logs = np.frombuffer(log_probs, "<f2").astype(np.float32)
        ordered = np.sort(ids)
        if ordered[-1] >= vocabulary_size:
            raise ValueError(f"token id {ordered[-1]} is outside the vocabulary of {vocabulary_size}")
        if (ordered[1:] == ordered[:-1]).any():
            raise ValueError("a token id occurs twice")
        if not (logs[1:] <= logs[:-1]).all() or not (logs[0] <= 0 and logs[-1] >= _LEAST_LOG):
            raise ValueError("log-probabilities must be finite, at most 0 and not rise")
        if not 0 <= tail_mass <= 1:
            raise ValueError(f"tail mass must be in [0, 1], not {tail_mass}")
        return cls(torch.from_numpy(ids), half_from_bytes(log_probs), tail_mass)


def half_to_bytes(row: Tensor) -> bytes:
    """Any float row as fp16, little-endian, 2 bytes an entry; what fp16 cannot hold becomes -infinity."""
    return row.to(torch.float16).cpu().numpy().astype("<f2", copy=False).tobytes()


def half_from_bytes(data: bytes) -> Tensor:
    """The inverse of `half_to_bytes`: fp16 [k] on the CPU. Raises ValueError for an odd number of bytes."""
    if len(data) % 2:
        raise ValueError(f"{len(data)} bytes are no half precision numbers")
    return torch.frombuffer(bytearray(data), dtype=torch.float16) if data else torch.empty(0, dtype=torch.float16)


def full_row_from_bytes(data: bytes, vocabulary_size: int) -> Tensor:
    """Log-probabilities of a whole row: fp16 [vocabulary_size] on the CPU, -infinity where the probability is 0.

    Raises ValueError for another length, NaN, positive entries, or a row without any probability.
    """
    row = half_from_bytes(data)
    if len(row) != vocabulary_size:
        raise ValueError(f"a full row has {vocabulary_size} entries, not {len(row)}")
    if not bool((row <= 0).all()) or float(row.max()) < _LEAST_LOG:
        raise ValueError("log-probabilities must be at most 0, and one of them must be a probability")
    return row


def full_law(log_q: Tensor) -> Tensor:
    """The law that a full fp16 row stands for: probabilities float64 [V], normalised."""
    q = log_q.to(torch.float64).exp()
    return q / q.sum()


def compress(log_p: Tensor, max_entries: int, mass: float = 1.0) -> CompressedRow:
    """The smallest head of log_p [V] with the mass asked for (in (0, 1]; 0 means 1), at most max_entries.

    Every tail entry is at most the smallest one listed. The tail mass is that of the whole row after rounding,
    so that head and tail are those of `full_law`. Raises ValueError for max_entries < 1.
    """
    ids, rounded = _head(log_p, max_entries)
    weights = log_p.to(torch.float16).to(torch.float32).exp_()
    head = weights[ids].to(torch.float64).cumsum(-1)
    rest = float(weights.index_fill(0, ids, 0.0).sum(dtype=torch.float64))
    total = float(head[-1]) + rest
    kept = len(ids)
    if 0 < mass < 1:
        kept = min(kept, 1 + int(torch.searchsorted(head, mass * total)))
    # The mass left out is summed by itself: 1 - head would lose a small tail's digits.
    cut = float(weights[ids[kept:]].sum(dtype=torch.float64))
    return CompressedRow(ids[:kept], rounded[:kept], _float32((rest + cut) / total))


def truncate_law(log_p: Tensor, max_entries: int) -> CompressedRow:
    """The law of log_p [V] cut to its support or its max_entries largest, renormalised, rounded to fp16.

    For ratio rules (section 3 of Leviathan et al. 2023 needs the exact law of the draw): the draft samples from
    `law` of the result, so nothing is lost on the wire and there is no tail. Raises ValueError for
    max_entries < 1.
    """
    ids, _ = _head(log_p, max_entries)
    rounded = torch.log_softmax(log_p[ids].to(torch.float64), dim=-1).to(torch.float16)
    kept = rounded >= _LEAST_LOG
    return CompressedRow(ids[kept], rounded[kept], 0.0)


def law(row: CompressedRow) -> tuple[Tensor, Tensor]:
    """Token ids int64 [k] and their probabilities float64 [k], which sum to 1 - tail_mass.

    Both sides compute q by this and nothing else; under ratio rules the draft draws from it.
    """
    q = row.log_probs.to(torch.float64).exp()
    return row.token_ids, q * ((1 - row.tail_mass) / q.sum())


def _head(log_p: Tensor, max_entries: int) -> tuple[Tensor, Tensor]:
    """Ids and fp16 log-probabilities of the largest entries that have a probability after rounding."""
    if max_entries < 1:
        raise ValueError(f"max_entries must be at least 1, not {max_entries}")
    values, ids = log_p.topk(min(max_entries, len(log_p)))
    rounded = values.to(torch.float16).clamp_(max=0)
    kept = rounded >= _LEAST_LOG
    return ids[kept], rounded[kept]


def _float32(value: float) -> float:
    """The number that a float field of the contract carries."""
    return float(torch.tensor(value, dtype=torch.float32))
