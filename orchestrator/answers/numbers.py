"""Bounds of the numbers that travel. Plain Python: this runs in every round, over some dozen of them."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from tandem.v1 import block_pb2, distribution_pb2

#: By which a number may lie on the wrong side of its bound: they are rounded, to half precision at worst.
ROUNDING = 1e-3
#: The least logarithm of something that has been drawn.
LEAST_LOG = -3.5e38
#: Less is no probability in half precision, nor in a double's exponential.
LEAST_ENTRY = -700.0
# Of a round, or of one pass: whatever is slower than that is not waited for.
_MOST_MICROSECONDS = 24 * 3600 * 1_000_000
_MOST_TOKENS = 1 << 40
# Of a side without a vocabulary of its own.
_ANY_TOKEN = 1 << 32


class MalformedAnswerError(Exception):
    """An answer that cannot be one to what was asked; the message says what is wrong with it."""


def vocabulary_of(size: int) -> int:
    """size: as a model says it, 0 for none."""
    return size or _ANY_TOKEN


def most_entropy(vocabulary: int) -> float:
    """Nats: of the uniform distribution, and what rounding adds."""
    return math.log(vocabulary) + ROUNDING


def within(values: Sequence[float], low: float, high: float) -> bool:
    """Whether all lie in [low, high]; NaN lies nowhere."""
    if not values:
        return True
    # Both ends are wrong where there is a NaN, but then the sum is one.
    return min(values) >= low and max(values) <= high and not math.isnan(sum(values))


def check_place(round_number: int, asked_round: int, position: int, asked_position: int) -> None:
    """Raises MalformedAnswerError for an answer to something else."""
    if round_number != asked_round:
        raise MalformedAnswerError(f"it is for round {round_number}, not {asked_round}")
    if position != asked_position:
        raise MalformedAnswerError(f"it is for position {position}, not {asked_position}")


def check_tokens(token_ids: Sequence[int], vocabulary: int) -> None:
    """Raises MalformedAnswerError."""
    if token_ids and max(token_ids) >= vocabulary:
        raise MalformedAnswerError(f"token {max(token_ids)} is outside the vocabulary of {vocabulary}")


def check_row(row: distribution_pb2.CompressedDistribution, most: int) -> None:
    """Raises MalformedAnswerError for a distribution that cannot be one, or has more than `most` entries."""
    entries, rest = divmod(len(row.token_ids), 4)
    if rest or not 1 <= entries <= most or len(row.log_probabilities) != 2 * entries:
        raise MalformedAnswerError("a distribution has not as many tokens as numbers, or too many")
    # They fall: the first is the largest, the last the smallest.
    (first,), (last,) = struct.unpack_from("<e", row.log_probabilities), struct.unpack("<e", row.log_probabilities[-2:])
    if not (last >= LEAST_ENTRY and first <= 0 and last <= first and 0 <= row.tail_mass < 1):
        raise MalformedAnswerError("a distribution's numbers are no probabilities")


def check_timing(timing: block_pb2.Timing) -> None:
    """Raises MalformedAnswerError. What it says of the pace decides block lengths of others at the same target, too."""
    steps, sequences, tokens = timing.steps, timing.step_sequences, timing.step_tokens
    # Each pass served a sequence, and each sequence had a token in it.
    if not steps <= sequences <= tokens <= _MOST_TOKENS:
        raise MalformedAnswerError(f"{steps} passes over {sequences} sequences took in {tokens} tokens")
    if max(timing.queue_microseconds, timing.compute_microseconds) > _MOST_MICROSECONDS:
        raise MalformedAnswerError("it took more than a day")
