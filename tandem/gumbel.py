"""Coupled draws: Gumbel-max from noise that draft and target share (Daliri, Musco and Suresh 2024, drafter-invariant
speculative decoding).

Both sides take argmax(log p + g) with the same g for (seed, choice, position, token); where p and q are alike so are
their draws. g = -log(-log((word + 1/2) / 2**32)) from the four words of lane token // 4 of `tandem.noise`'s Philox,
in float64 [ours]; the words are those of the scalar `noise.philox`, computed for all tokens at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tandem.noise import KEY_STEPS, MULTIPLIERS, ROUNDS, WORD, NoiseStream, Purpose, philox
from tandem.sayable import Sayable
from tandem.selection import argmax, top_places
from tandem.transfers import upload

# Tokens at once on the CPU: what is computed of them stays in its cache.
_TOKENS = 200_000


@dataclass(frozen=True, slots=True, eq=False)
class Counters:
    """What the words of each row depend on besides the lane, uint64 [n, 1] each: its absolute position, the fourth
    counter word, and the two words of the key."""

    position: np.ndarray
    last: np.ndarray
    low_key: np.ndarray
    high_key: np.ndarray

    @classmethod
    def of(cls, streams: Sequence[NoiseStream], positions: Sequence[int] | range) -> Counters:
        """Of one stream and position per row, or of one stream for all rows."""
        words = ((stream.last_word(Purpose.COUPLED), *stream.key) for stream in streams)
        each = np.array(list(words), dtype=np.uint64).reshape(-1, 3)
        position = np.array(positions, dtype=np.uint64).reshape(-1, 1) & np.uint64(WORD)
        return cls(position, *np.broadcast_to(each, (len(position), 3)).reshape(-1, 3, 1).swapaxes(0, 1))

    def rows(self, which: slice | list[int]) -> Counters:
        """Those of some rows."""
        return Counters(self.position[which], self.last[which], self.low_key[which], self.high_key[which])

    def to(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Position and fourth word, int64 [n, 1] each, and the keys of all rounds, int64 [ROUNDS, 2, n, 1]."""
        steps = np.arange(ROUNDS, dtype=np.uint64).reshape(-1, 1, 1, 1) * _STEPS
        keys = (np.stack([self.low_key, self.high_key]) + steps) & np.uint64(WORD)
        words = upload(np.stack([self.position, self.last, *keys.reshape(-1, *self.last.shape)]), torch.long, device)
        return words[0], words[1], words[2:].unflatten(0, (ROUNDS, 2))


_STEPS = np.array(KEY_STEPS, dtype=np.uint64).reshape(2, 1, 1)


def philox_words(lane: Tensor, position: Tensor, stream: NoiseStream, purpose: Purpose) -> Tensor:
    """Philox words of each (lane, position), attempt 0: int64 [..., 4] in [0, 2**32).

    lane, position: int64, of shapes that broadcast to [...].
    """
    last = torch.tensor(stream.last_word(purpose), device=lane.device)
    keys = Counters.of([stream], [0]).to(lane.device)[2][..., 0, 0]
    lane, position = torch.broadcast_tensors(lane & WORD, position & WORD)
    return _philox_rows(lane, position, last, keys)


def _philox_rows(lane: Tensor, position: Tensor, last: Tensor, keys: Tensor) -> Tensor:
    """Philox words of counters (lane, position, 0, last): int64 [..., 4]; keys: int64 [ROUNDS, 2, ...].

    Products wrap modulo 2**64 in int64, which leaves both of their halves right. What does not depend on the lane, or
    not on the row, is kept that small for as long as it lasts.
    """
    c0, c1, c2, c3 = lane, position, torch.zeros_like(last), last
    for k0, k1 in keys:
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0 = (product1 >> 32).bitwise_and_(WORD) ^ c1 ^ k0
        c2 = (product0 >> 32).bitwise_and_(WORD) ^ c3 ^ k1
        c1, c3 = product1.bitwise_and_(WORD), product0.bitwise_and_(WORD)
    return torch.stack(torch.broadcast_tensors(c0, c1, c2, c3), dim=-1)


def _words(lane: Tensor, counters: Counters) -> Tensor:
    """Philox words of the lanes [n or 1, L] of each row: int64 [n, L, 4]."""
    if not lane.is_cpu:
        return _philox_rows(lane, *counters.to(lane.device))
    # NumPy's unsigned integers need fewer steps, and the scalar code is arithmetic, so it takes arrays.
    counter = (lane.numpy().astype(np.uint64), counters.position, np.uint64(0), counters.last)
    words = philox(counter, (counters.low_key, counters.high_key))  # type: ignore[arg-type]
    return torch.from_numpy(np.stack(np.broadcast_arrays(*words), axis=-1).view(np.int64))


def gumbel(words: Tensor) -> Tensor:
    """Standard Gumbel noise of 32-bit words: float64, always finite."""
    noise = words.to(torch.float64).add_(0.5).div_(WORD + 1)
    if not noise.is_cpu:
        return noise.log_().neg_().log_().neg_()
    array = noise.numpy()  # the same memory: NumPy's logarithm takes a third of the time of torch's
    for _ in range(2):
        np.negative(np.log(array, out=array), out=array)
    return noise


def gumbel_argmax_batch(log_p: Tensor, counters: Counters, *, forbids: bool = True) -> Tensor:
    """Coupled draw of each row: int64 [n]. log_p: [n, V], -infinity outside the support; of NaN rows, some id.

    forbids: whether tokens may lie outside it. Where few are left, few lanes are computed; on the CPU only, since
    elsewhere looking how many would wait for the device. The draws are the same.
    """
    return gumbel_best_batch(log_p, counters, 0, forbids=forbids).squeeze(1)


def gumbel_best_batch(
    log_p: Tensor, counters: Counters, best: int, *, forbids: bool = True, sayable: Sayable | None = None
) -> Tensor:
    """As `gumbel_argmax_batch`: int64 [n, 1 + best], the draw, then the tokens of the `best` largest log p + g, from
    the largest down; the draw is among them. -1 where fewer have a probability.

    At a place where both sides draw from the same noise, the draw of a p that is like this row is likely among them.
    sayable: the tokens that the columns are of, whose noise is computed alone; what is returned are columns.
    """
    rows, size = log_p.shape
    best = min(best, size)
    if not log_p.is_cpu or not rows:
        return _wide(log_p, counters, size, best, sayable)
    widths = torch.count_nonzero(log_p > -math.inf, dim=-1).tolist() if forbids else [size] * rows
    narrow = [row for row in range(rows) if widths[row] * 4 < size]
    if 0 < len(narrow) < rows:
        found = torch.empty(rows, 1 + best, dtype=torch.long)
        for part in (narrow, [row for row in range(rows) if widths[row] * 4 >= size]):
            found[part] = gumbel_best_batch(
                log_p[part], counters.rows(part), best, forbids=part is narrow, sayable=sayable
            )
        return found
    draw, width = (_narrow, max(1, max(widths))) if narrow else (_wide, size)
    step = max(1, _TOKENS // width)
    parts = [slice(start, start + step) for start in range(0, rows, step)]
    return torch.cat([draw(log_p[part], counters.rows(part), width, best, sayable) for part in parts])


def _wide(log_p: Tensor, counters: Counters, width: int, best: int, sayable: Sayable | None) -> Tensor:
    """The draw and the best of each row with the noise of all its `width` tokens: int64 [n, 1 + best]."""
    if sayable is None:
        lanes = torch.arange((width + 3) // 4, device=log_p.device).unsqueeze(0)
        noise = gumbel(_words(lanes, counters)).flatten(1)[:, :width]
    else:
        words = _words(sayable.lanes.unsqueeze(0), counters).flatten(1)
        noise = gumbel(words.index_select(1, sayable.words))
    noise.add_(log_p)
    draw = argmax(noise).unsqueeze(1)
    return torch.cat([draw, top_places(noise, best)], -1) if best else draw


def _narrow(log_p: Tensor, counters: Counters, width: int, best: int, sayable: Sayable | None) -> Tensor:
    """The same from the noise of the `width` likeliest tokens."""
    scores, columns = log_p.topk(width, dim=-1)
    ids = columns if sayable is None else sayable.token_ids[columns]
    words = _words(ids // 4, counters)
    noise = gumbel(words.gather(-1, (ids % 4).unsqueeze(-1)).squeeze(-1))
    noise = scores + noise
    draw = columns.gather(-1, noise.argmax(-1, keepdim=True))
    if not best:
        return draw
    values, places = noise.topk(min(best, width), dim=-1)
    found = columns.gather(-1, places).masked_fill_(values == -math.inf, -1)
    return torch.cat([draw, torch.nn.functional.pad(found, (0, best - found.shape[-1]), value=-1)], -1)


def gumbel_argmax_rows(log_p: Tensor, stream: NoiseStream, position: int) -> Tensor:
    """Coupled draw of each row: int64 [n]. log_p: [n, V], -infinity outside the support; row i is at position + i."""
    return gumbel_argmax_batch(log_p, Counters.of([stream], range(position, position + len(log_p))))


def gumbel_argmax(log_p: Tensor, stream: NoiseStream, position: int) -> int:
    """Coupled draw from one row: argmax(log p + g). log_p: [V]; position: absolute position of the token."""
    return int(gumbel_argmax_rows(log_p.unsqueeze(0), stream, position))
