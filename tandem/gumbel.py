"""Coupled draws: Gumbel-max from noise that draft and target share (Daliri, Musco and Suresh 2024, drafter-invariant
speculative decoding).

Both sides take argmax(log p + g) with the same g for (seed, choice, position, token); where p and q are alike so are
their draws. g = -log(-log((word + 1/2) / 2**32)) from the four words of lane token // 4 of `tandem.noise`'s Philox,
in float64 [ours]; the words are those of the scalar `noise.philox`, computed for all tokens at once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tandem.noise import KEY_STEPS, MULTIPLIERS, ROUNDS, WORD, NoiseStream, Purpose


def philox_words(lane: Tensor, position: Tensor, stream: NoiseStream, purpose: Purpose) -> Tensor:
    """Philox words of each (lane, position), attempt 0: int64 [..., 4] in [0, 2**32).

    lane, position: int64, of shapes that broadcast to [...]. Products wrap modulo 2**64 in int64, which leaves
    both of their halves right.
    """
    c0, c1 = torch.broadcast_tensors(lane & WORD, position & WORD)
    c2 = torch.zeros_like(c0)
    c3 = torch.full_like(c0, stream.last_word(purpose))
    k0, k1 = stream.key
    for _ in range(ROUNDS):
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0 = (product1 >> 32).bitwise_and_(WORD).bitwise_xor_(c1).bitwise_xor_(k0)
        c2 = (product0 >> 32).bitwise_and_(WORD).bitwise_xor_(c3).bitwise_xor_(k1)
        c1, c3 = product1.bitwise_and_(WORD), product0.bitwise_and_(WORD)
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    return torch.stack((c0, c1, c2, c3), dim=-1)


def gumbel(words: Tensor) -> Tensor:
    """Standard Gumbel noise of 32-bit words: float64, always finite."""
    return words.to(torch.float64).add_(0.5).div_(WORD + 1).log_().neg_().log_().neg_()


def gumbel_argmax_rows(log_p: Tensor, stream: NoiseStream, position: int) -> Tensor:
    """Coupled draw of each row: int64 [n]. log_p: [n, V], -infinity outside the support; row i is at position + i."""
    rows, vocabulary_size = log_p.shape
    positions = torch.arange(position, position + rows, device=log_p.device).unsqueeze(1)
    width = int(torch.count_nonzero(log_p > -math.inf, dim=-1).max())
    if width * 4 < vocabulary_size:  # a narrow support needs few lanes
        scores, ids = log_p.topk(width, dim=-1)
        words = philox_words(ids // 4, positions, stream, Purpose.COUPLED)
        noise = gumbel(words.gather(-1, (ids % 4).unsqueeze(-1)).squeeze(-1))
        return ids.gather(-1, (scores + noise).argmax(-1, keepdim=True)).squeeze(-1)
    lanes = torch.arange((vocabulary_size + 3) // 4, device=log_p.device)
    noise = gumbel(philox_words(lanes, positions, stream, Purpose.COUPLED)).flatten(1)[:, :vocabulary_size]
    return noise.add_(log_p).argmax(-1)


def gumbel_argmax(log_p: Tensor, stream: NoiseStream, position: int) -> int:
    """Coupled draw from one row: argmax(log p + g). log_p: [V]; position: absolute position of the token."""
    return int(gumbel_argmax_rows(log_p.unsqueeze(0), stream, position))
