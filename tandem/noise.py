"""Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011), one separate stream for each purpose.

A number is a pure function of (seed, choice, position, purpose, attempt), so it does not depend on what was
drawn before, on other requests or on which replica draws it: a sequence reopened elsewhere goes on identically.
The key is the seed (low word first); the counter's words are (lane, position, attempt, choice << 8 | purpose).
Lane 0 holds the scalars of this module; coupled draws use the lanes for tokens (see `tandem.gumbel`).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WORD = 0xFFFFFFFF
#: Multipliers and key increments of Philox4x32, and its number of rounds.
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
# From this many numbers on, arrays are faster than Python's integers.
_FEW = 20


class Purpose(enum.IntEnum):
    """What a random number decides. No two of them may share noise, or the output is biased."""

    DRAFT = 1
    ACCEPT = 2
    CORRECTION = 3
    TARGET = 4
    KDE = 5
    COUPLED = 6


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 of four 32-bit counter words under two 32-bit key words: four 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0 = MULTIPLIERS[0] * c0
        product1 = MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (product1 >> 32) ^ c1 ^ k0, product1 & WORD, (product0 >> 32) ^ c3 ^ k1, product0 & WORD
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    return c0, c1, c2, c3


@dataclass(frozen=True, slots=True)
class NoiseStream:
    """The random numbers of one completion.

    seed: the request's, any unsigned 64-bit value. choice: which of its completions this is, less than 2**24.
    Raises ValueError where either is out of range.
    """

    seed: int
    choice: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"seed must be an unsigned 64-bit number, not {self.seed}")
        if not 0 <= self.choice < 1 << 24:
            raise ValueError(f"choice must be in [0, 2**24), not {self.choice}")

    @property
    def key(self) -> tuple[int, int]:
        """Philox key: the seed's low and high word."""
        return self.seed & WORD, self.seed >> 32

    def last_word(self, purpose: Purpose) -> int:
        """Fourth counter word: choice and purpose."""
        return self.choice << 8 | purpose

    def uniform(self, purpose: Purpose, position: int, attempt: int = 0) -> float:
        """A number in [0, 1) with 53 random bits.

        position: absolute position of the token that it decides. attempt: the round, for what may be drawn
        again at the same position (draft draws and acceptance under ratio rules); 0 otherwise. Both are taken
        modulo 2**32.
        """
        counter = (0, position & WORD, attempt & WORD, self.last_word(purpose))
        high, low, _, _ = philox(counter, self.key)
        return ((high >> 5) << 26 | low >> 6) / (1 << 53)


def uniforms(
    streams: Sequence[NoiseStream], purpose: Purpose, positions: Sequence[int], attempts: Sequence[int] | None = None
) -> list[float]:
    """`stream.uniform(purpose, position, attempt)` of each stream with its position and attempt (0 where left out)."""
    attempts = attempts or [0] * len(streams)
    if len(streams) < _FEW:
        draws = zip(streams, positions, attempts, strict=True)
        return [stream.uniform(purpose, position, attempt) for stream, position, attempt in draws]

    def words(values: Sequence[int]) -> np.ndarray:
        return np.array([value & WORD for value in values], dtype=np.uint64)

    # The same integer arithmetic on arrays; products of 32-bit words fit 64 bits.
    counter = (0, words(positions), words(attempts), words([stream.last_word(purpose) for stream in streams]))
    key = (words([stream.key[0] for stream in streams]), words([stream.key[1] for stream in streams]))
    high, low, _, _ = philox(counter, key)  # type: ignore[arg-type]
    return (((high >> 5) << 26 | low >> 6) / (1 << 53)).tolist()  # type: ignore[attr-defined, no-any-return]
