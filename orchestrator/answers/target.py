"""Answers of a target."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from orchestrator.answers.numbers import (
    LEAST_LOG,
    ROUNDING,
    MalformedAnswerError,
    check_place,
    check_row,
    check_timing,
    check_tokens,
    most_entropy,
    vocabulary_of,
    within,
)
from tandem.v1 import distribution_pb2, sampling_pb2, target_pb2

# Under these a candidate is accepted iff it is the target's own token, which is the correction, too.
_MATCHING = frozenset({sampling_pb2.VERIFICATION_RULE_GREEDY, sampling_pb2.VERIFICATION_RULE_COUPLED})
_MOST_TOP3_ENTROPY = math.log(3) + ROUNDING


def check_verified(
    opening: target_pb2.VerifyOpen,
    asked: target_pb2.VerifyRound,
    verified: target_pb2.VerifiedBlock,
    *,
    feature_width: int = 0,
) -> None:
    """opening: of the stream. feature_width: of the target. Raises MalformedAnswerError."""
    check_place(verified.round, asked.round, verified.position, asked.block.position)
    vocabulary = vocabulary_of(opening.handshake.expected.vocabulary_size)
    size = len(asked.block.token_ids)
    if verified.HasField("considered"):
        if asked.block.parents:
            raise MalformedAnswerError("it left off candidates of a tree")
        if verified.considered >= size:
            raise MalformedAnswerError(f"it left off some of {size} candidates and considered {verified.considered}")
        size = verified.considered
    measured = size if asked.block.distributions else 0
    entries = _entries(opening, asked)
    _check_lengths(verified, size, measured, size + 1 if entries else 0)
    _check_rows(verified.distributions, entries, vocabulary)
    _check_features(verified.features, size + 1, asked.features, feature_width)
    own, corrections = verified.target_token_ids[:], verified.correction_token_ids[:]
    check_tokens(own + corrections, vocabulary)
    _check_numbers(verified, most_entropy(vocabulary))
    if opening.verification in _MATCHING:
        of_places = [own[parent + 1] for parent in asked.block.parents] or own
        _check_matches(asked.block.token_ids[:size], of_places, corrections, verified.acceptance_probabilities[:])
    if opening.HasField("log_probabilities") != verified.HasField("model"):
        raise MalformedAnswerError("log-probabilities of the model are missing, or were not asked for")
    if verified.HasField("model"):
        _check_model(verified.model, size, min(opening.log_probabilities, vocabulary), vocabulary)
    check_timing(verified.timing)


def _entries(opening: target_pb2.VerifyOpen, asked: target_pb2.VerifyRound | target_pb2.Generate) -> int:
    """How many of each p were asked for, at most."""
    return (asked if asked.HasField("format") else opening).format.max_entries


def _check_rows(rows: Sequence[distribution_pb2.CompressedDistribution], most: int, vocabulary: int) -> None:
    """They go on to a draft, which would take what is wrong with them for a fault of this service."""
    for row in rows:
        check_row(row, most)
        ids = np.frombuffer(row.token_ids, "<u4")
        check_tokens(ids.tolist(), vocabulary)
        if len(np.unique(ids)) < len(ids):
            raise MalformedAnswerError("a distribution names a token twice")


def _check_features(data: bytes, positions: int, asked: int, width: int) -> None:
    """As `_check_rows`. positions: of the answer. asked: positions up to the first of these."""
    if not asked:
        if data:
            raise MalformedAnswerError("it has features that were not asked for")
        return
    count, rest = divmod(len(data), 2 * max(width, 1))
    if rest or not positions <= count < positions + asked:
        raise MalformedAnswerError(f"{len(data)} bytes are no features of {positions} positions, {width} numbers each")
    if not np.isfinite(np.frombuffer(data, "<f2")).all():
        raise MalformedAnswerError("a feature is not finite")


def _check_lengths(verified: target_pb2.VerifiedBlock, size: int, measured: int, rows: int) -> None:
    """measured: candidates whose distribution was sent. rows: distributions that were asked for."""
    of_candidates = (
        len(verified.acceptance_probabilities), len(verified.correction_token_ids), len(verified.log_probabilities),
        len(verified.correction_log_probabilities), len(verified.in_support),
    )  # fmt: skip
    of_positions = (
        len(verified.target_token_ids), len(verified.max_log_probabilities), len(verified.target_log_probabilities),
        len(verified.entropies), len(verified.top3_entropies),
    )  # fmt: skip
    of_distances = len(verified.total_variations), len(verified.distances_lower), len(verified.distances_upper)
    if of_candidates != (size,) * 5 or of_positions != (size + 1,) * 5:
        raise MalformedAnswerError(f"its columns do not fit {size} candidates")
    if of_distances != (measured,) * 3:
        raise MalformedAnswerError(f"its distances do not fit {measured} distributions")
    if len(verified.distributions) != rows:
        raise MalformedAnswerError(f"it has {len(verified.distributions)} distributions where {rows} were asked for")


def _check_numbers(verified: target_pb2.VerifiedBlock, most: float) -> None:
    """most: of an entropy."""
    # Slices are lists: they are copied at once, and read much faster than what the message holds.
    lower, upper = verified.distances_lower[:], verified.distances_upper[:]
    shares = verified.acceptance_probabilities[:] + verified.total_variations[:] + lower + upper
    if not within(shares, -ROUNDING, 1 + ROUNDING):
        raise MalformedAnswerError("a probability or a distance lies outside of [0, 1]")
    if any(low > high + ROUNDING for low, high in zip(lower, upper, strict=True)):
        raise MalformedAnswerError("a distance's lower bound lies above its upper one")
    # What was drawn is likelier than nothing; a candidate need not be.
    drawn = verified.max_log_probabilities[:] + verified.target_log_probabilities[:]
    given = verified.log_probabilities[:] + verified.correction_log_probabilities[:]
    if not (within(drawn, LEAST_LOG, ROUNDING) and within(given, -math.inf, ROUNDING)):
        raise MalformedAnswerError("a log-probability is not one")
    if not (
        within(verified.entropies[:], -ROUNDING, most)
        and within(verified.top3_entropies[:], -ROUNDING, _MOST_TOP3_ENTROPY)
    ):
        raise MalformedAnswerError("an entropy is not one")


def _check_matches(
    candidates: Sequence[int], own: Sequence[int], corrections: Sequence[int], acceptances: Sequence[float]
) -> None:
    found = zip(candidates, own, corrections, acceptances, strict=False)  # `own` may have one more
    if any(correction != token or accepted != (x == token) for x, token, correction, accepted in found):
        raise MalformedAnswerError("it accepts what is not the target's token, or rejects what is")


def _check_model(found: target_pb2.ModelLogProbabilities, size: int, most: int, vocabulary: int) -> None:
    """most: of the likeliest tokens."""
    if (len(found.candidates), len(found.targets), len(found.corrections)) != (size, size + 1, size):
        raise MalformedAnswerError(f"log-probabilities of the model do not fit {size} candidates")
    if not within([*found.candidates, *found.targets, *found.corrections], -math.inf, ROUNDING):
        raise MalformedAnswerError("a log-probability of the model is not one")
    if len(found.top) != (size + 1 if most else 0):
        raise MalformedAnswerError(f"the likeliest tokens of {len(found.top)} positions are not what was asked for")
    for top in found.top:
        _check_top(top, most, vocabulary)


def _check_top(top: target_pb2.TopTokens, most: int, vocabulary: int) -> None:
    if len(top.token_ids) != most or len(top.log_probabilities) != most:
        raise MalformedAnswerError(f"of the {most} likeliest tokens {len(top.token_ids)} are named")
    check_tokens(top.token_ids, vocabulary)
    if not within(top.log_probabilities, -math.inf, ROUNDING):
        raise MalformedAnswerError("a log-probability of the likeliest tokens is not one")


def check_generated(
    opening: target_pb2.VerifyOpen,
    asked: target_pb2.Generate,
    token: target_pb2.GeneratedToken,
    *,
    before: int,
    context_length: int,
    feature_width: int = 0,
) -> None:
    """before: how many tokens have answered `asked` already. context_length: the target's, 0 where it has no bound.
    feature_width: the target's. Raises MalformedAnswerError."""
    position = asked.continuation.position + len(asked.continuation.token_ids) + before
    check_place(token.round, asked.round, token.position, position)
    vocabulary = vocabulary_of(opening.handshake.expected.vocabulary_size)
    check_tokens((token.token_id,), vocabulary)
    if not LEAST_LOG <= token.log_probability <= ROUNDING:
        raise MalformedAnswerError("a log-probability is not one")
    if not -ROUNDING <= token.entropy <= most_entropy(vocabulary):
        raise MalformedAnswerError("an entropy is not one")
    # Neither more tokens than were asked for, nor an end for no reason.
    is_last = before + 1 >= asked.max_tokens or 0 < context_length <= position + 1
    if token.last != (is_last or token.token_id in opening.stop_token_ids):
        raise MalformedAnswerError("it goes on behind its end" if not token.last else "it ends before its end")
    entries = _entries(opening, asked)
    if token.HasField("distribution") != (entries > 0):
        raise MalformedAnswerError("a distribution is missing, or was not asked for")
    _check_rows([token.distribution] if entries else [], entries, vocabulary)
    _check_features(token.features, 1, asked.features if before == 0 else min(asked.features, 1), feature_width)
    _check_model_of(opening, token, vocabulary)
    check_timing(token.timing)


def _check_model_of(opening: target_pb2.VerifyOpen, token: target_pb2.GeneratedToken, vocabulary: int) -> None:
    if token.HasField("model_log_probability") != opening.HasField("log_probabilities"):
        raise MalformedAnswerError("log-probabilities of the model are missing, or were not asked for")
    if not token.model_log_probability <= ROUNDING:  # nor is NaN
        raise MalformedAnswerError("a log-probability of the model is not one")
    _check_top(token.top, min(opening.log_probabilities, vocabulary), vocabulary)


def check_resolved(asked: target_pb2.ResolveDistances, resolved: target_pb2.ResolvedDistances) -> None:
    """Raises MalformedAnswerError."""
    check_place(resolved.round, asked.round, 0, 0)
    indices, count = [row.index for row in asked.rows], len(asked.rows)
    if list(resolved.indices) != indices:
        raise MalformedAnswerError("it resolves other candidates than were asked for")
    if len(resolved.distances) != count or len(resolved.total_variations) != count:
        raise MalformedAnswerError(f"its columns do not fit {count} rows")
    if not within([*resolved.distances, *resolved.total_variations], -ROUNDING, 1 + ROUNDING):
        raise MalformedAnswerError("a distance lies outside of [0, 1]")
    check_timing(resolved.timing)
