"""What was computed, as messages."""

from __future__ import annotations

from tandem.v1 import target_pb2
from tandem.wire import row_message, state_bytes, timing_message
from target_service.log_probabilities import BlockLogProbabilities, PositionLogProbabilities
from target_service.spec import Verified


def verified_message(round_number: int, position: int, verified: Verified) -> target_pb2.VerifiedBlock:
    numbers = verified.numbers
    return target_pb2.VerifiedBlock(
        round=round_number,
        position=position,
        acceptance_probabilities=numbers.acceptance,
        correction_token_ids=numbers.corrections,
        target_token_ids=numbers.target_tokens,
        log_probabilities=numbers.log_p,
        max_log_probabilities=numbers.max_log_p,
        target_log_probabilities=numbers.target_log_p,
        correction_log_probabilities=numbers.correction_log_p,
        entropies=numbers.entropies,
        top3_entropies=numbers.top3_entropies,
        total_variations=numbers.total_variations,
        distances_lower=numbers.distances_lower,
        distances_upper=numbers.distances_upper,
        in_support=numbers.in_support,
        distributions=[row_message(row) for row in numbers.rows],
        timing=timing_message(verified.timing),
        model=_model_message(verified.model) if verified.model else None,
        features=state_bytes(verified.features),
    )


def _model_message(model: BlockLogProbabilities) -> target_pb2.ModelLogProbabilities:
    return target_pb2.ModelLogProbabilities(
        candidates=model.candidates,
        targets=[position.log_probability for position in model.positions],
        corrections=model.corrections,
        top=[top_message(position) for position in model.positions if position.top_ids],
    )


def top_message(position: PositionLogProbabilities) -> target_pb2.TopTokens:
    return target_pb2.TopTokens(token_ids=position.top_ids, log_probabilities=position.top_log_probabilities)
