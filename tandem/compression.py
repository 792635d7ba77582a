"""Distributions cut to their head, as they travel: `CompressedRow`, with log-probabilities rounded to fp16.

The law that a row stands for is `law(row)`, computed from the rounded numbers: under ratio rules the draft samples
from exactly that (`truncate_law`), elsewhere (`compress`) it is the head of the law of the whole row rounded alike
(`full_law`). Bounds of distances from a row with a tail are in `tandem.brackets`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tandem.divergences import exp_
from tandem.transfers import upload

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
        if not 0 <= tail_mass < 1:  # what is listed has some of it
            raise ValueError(f"tail mass must be in [0, 1), not {tail_mass}")
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
    """The laws that full fp16 rows stand for: probabilities float64 [..., V], normalised."""
    q = log_q.to(torch.float64).exp()
    return q / q.sum(-1, keepdim=True)


@dataclass(frozen=True, slots=True, eq=False)
class CutRows:
    """Many rows cut to their heads, on the device that they were computed on.

    token_ids: int64 [n, k]. log_probs: fp16 [n, k], -infinity behind a row's end. lengths: int64 [n]. tail_masses:
    fp32 [n].
    """

    token_ids: Tensor
    log_probs: Tensor
    lengths: Tensor
    tail_masses: Tensor

    def law(self) -> Tensor:
        """The law of each row, as `law`: float64 [n, k], 0 behind its end."""
        return _normalise(self.log_probs, self.tail_masses.to(torch.float64))

    def columns(self) -> dict[str, Tensor]:
        """What travels to the host (see `transfers.to_host`), for `rows_from`."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def rows_from(columns: Mapping[str, Tensor]) -> list[CompressedRow]:
    """The rows that `CutRows.columns` came from, out of numbers of any type on the CPU."""
    lengths, tail_masses = columns["lengths"].long().tolist(), columns["tail_masses"].tolist()
    token_ids, log_probs = columns["token_ids"].long(), columns["log_probs"].to(torch.float16)
    return [
        CompressedRow(ids[:length], logs[:length], tail_mass)
        for ids, logs, length, tail_mass in zip(token_ids, log_probs, lengths, tail_masses, strict=True)
    ]


def compress_rows(log_p: Tensor, max_entries: int, masses: Sequence[float]) -> CutRows:
    """`compress` of each row of log_p [n, V] with its mass. Nothing is read back."""
    values, ids = _heads(log_p, max_entries)
    rounded = _round(values)
    kept = (rounded > -math.inf).sum(-1)
    # By way of fp32: torch has no fast way from half to double precision.
    weights = exp_(log_p.to(torch.float16).to(torch.float32).to(torch.float64))
    listed = weights.gather(-1, ids)
    head = listed.cumsum(-1)
    rest = weights.scatter_(-1, ids, 0.0).sum(-1)
    total = head[:, -1] + rest
    if any(0 < mass < 1 for mass in masses):
        bounds = upload([mass if 0 < mass < 1 else math.inf for mass in masses], torch.float64, log_p.device)
        kept = torch.minimum(kept, 1 + (head < (bounds * total).unsqueeze(-1)).sum(-1))
    behind = torch.arange(ids.shape[-1], device=ids.device) >= kept.unsqueeze(-1)
    # The mass left out is summed by itself: 1 - head would lose a small tail's digits.
    cut = (listed * behind).sum(-1)
    return CutRows(ids, rounded.masked_fill(behind, -math.inf), kept, ((rest + cut) / total).to(torch.float32))


def truncate_rows(log_p: Tensor, max_entries: int) -> CutRows:
    """`truncate_law` of each row of log_p [n, V]. Nothing is read back."""
    values, ids = _heads(log_p, max_entries)
    shares = torch.log_softmax(values.to(torch.float64), dim=-1)
    rounded = shares.to(torch.float16).masked_fill_(shares < _LEAST_LOG, -math.inf)
    return CutRows(ids, rounded, (rounded > -math.inf).sum(-1), torch.zeros_like(log_p[:, 0]))


def compress(log_p: Tensor, max_entries: int, mass: float = 1.0) -> CompressedRow:
    """The smallest head of log_p [V] with the mass asked for (in (0, 1]; 0 means 1), at most max_entries.

    Every tail entry is at most the smallest one listed. The tail mass is that of the whole row after rounding,
    so that head and tail are those of `full_law`. Raises ValueError for max_entries < 1.
    """
    return rows_from(compress_rows(log_p.unsqueeze(0), max_entries, [mass]).columns())[0]


def truncate_law(log_p: Tensor, max_entries: int) -> CompressedRow:
    """The law of log_p [V] cut to its support or its max_entries largest, renormalised, rounded to fp16.

    For ratio rules (section 3 of Leviathan et al. 2023 needs the exact law of the draw): the draft samples from
    `law` of the result, so nothing is lost on the wire and there is no tail. Raises ValueError for
    max_entries < 1.
    """
    return rows_from(truncate_rows(log_p.unsqueeze(0), max_entries).columns())[0]


def law(row: CompressedRow) -> tuple[Tensor, Tensor]:
    """Token ids int64 [k] and their probabilities float64 [k], which sum to 1 - tail_mass.

    Both sides compute q by this and nothing else; under ratio rules the draft draws from it.
    """
    tail_mass = torch.tensor(row.tail_mass, dtype=torch.float64, device=row.log_probs.device)
    return row.token_ids, _normalise(row.log_probs, tail_mass)


def laws(rows: Sequence[CompressedRow]) -> tuple[Tensor, Tensor]:
    """`law` of each row, on the CPU: token ids int64 and probabilities float64, [n, k] with the longest row's k.

    Behind a row's end there are ids 0 of probability 0.
    """
    ids = pad_sequence([row.token_ids.cpu() for row in rows], batch_first=True)
    logs = pad_sequence([row.log_probs.cpu() for row in rows], batch_first=True, padding_value=-math.inf)
    return ids, _normalise(logs, torch.tensor([row.tail_mass for row in rows], dtype=torch.float64))


def _normalise(log_probs: Tensor, tail_mass: Tensor) -> Tensor:
    """Probabilities float64 [..., k] of fp16 logarithms, with the sum 1 - tail_mass [...].

    The sum is a running one, so that it is the same to the last bit whatever stands behind a row's end.
    """
    q = log_probs.to(torch.float64).exp_()
    return q * ((1 - tail_mass) / q.cumsum(-1)[..., -1]).unsqueeze(-1)


def _heads(log_p: Tensor, max_entries: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities and ids [n, k] of the largest entries."""
    if max_entries < 1:
        raise ValueError(f"max_entries must be at least 1, not {max_entries}")
    values, ids = log_p.topk(min(max_entries, log_p.shape[-1]), dim=-1)
    return values, ids


def _round(log_p: Tensor) -> Tensor:
    """As fp16, at most 0; -infinity for what is no probability."""
    rounded = log_p.to(torch.float16).clamp_(max=0)
    return rounded.masked_fill_(~(rounded >= _LEAST_LOG), -math.inf)
