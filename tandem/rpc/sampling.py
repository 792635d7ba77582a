"""What a SamplingParams message may say; the same for callers and between the services."""

from __future__ import annotations

import math

from tandem.rpc.errors import TandemError
from tandem.v1 import sampling_pb2
from tandem.v1.sampling_pb2 import SamplingParams

_MAX_TOP_K = 2**31 - 1
_MAX_PENALTY = 2.0
_MOST_PRIORITY = 100
_MOST_REPETITION = 1000.0
_MOST_BIAS = 1e30  # logits are fp32: what it cannot hold would look like a broken model


def check_sampling(params: SamplingParams, *, path: str, vocabulary_size: int) -> None:
    """Raises TandemError INVALID_FIELD naming the field below `path` that has a value it may not have."""

    def refuse(field: str, problem: str) -> None:
        raise TandemError.invalid_field(f"{path}.{field}", problem)

    if not (math.isfinite(params.temperature) and params.temperature >= 0):
        refuse("temperature", f"must be finite and at least 0, not {params.temperature}")
    if params.top_k > _MAX_TOP_K:
        refuse("top_k", f"must be at most {_MAX_TOP_K}, not {params.top_k}")
    if params.HasField("top_p") and not 0 < params.top_p <= 1:
        refuse("top_p", f"must lie in (0, 1], not {params.top_p}")
    if not 0 <= params.min_p <= 1:
        refuse("min_p", f"must lie in [0, 1], not {params.min_p}")
    if params.HasField("repetition_penalty") and not (
        1 / _MOST_REPETITION <= params.repetition_penalty <= _MOST_REPETITION
    ):
        refuse("repetition_penalty", f"must lie in [0.001, 1000], not {params.repetition_penalty}")
    for field in ("presence_penalty", "frequency_penalty"):
        value = getattr(params, field)
        if not -_MAX_PENALTY <= value <= _MAX_PENALTY:
            refuse(field, f"must lie in [-2, 2], not {value}")
    for token, bias in params.logit_bias.items():
        if token >= vocabulary_size:
            refuse("logit_bias", f"token {token} is not below the vocabulary size {vocabulary_size}")
        if bias != -math.inf and not abs(bias) <= _MOST_BIAS:
            refuse("logit_bias", f"the bias of token {token} must lie in [-1e30, 1e30] or be -infinity, not {bias}")
    forbidden = sum(bias == -math.inf for bias in params.logit_bias.values())
    if vocabulary_size and forbidden >= vocabulary_size:
        refuse("logit_bias", "forbids every token")


def check_token_ids(ids, *, path: str, vocabulary_size: int) -> None:
    """Raises TandemError INVALID_FIELD for the first of `ids` that is not below `vocabulary_size`."""
    if ids and max(ids) >= vocabulary_size:
        index, token = next((i, token) for i, token in enumerate(ids) if token >= vocabulary_size)
        raise TandemError.invalid_field(
            f"{path}[{index}]", f"token {token} is not below the vocabulary size {vocabulary_size}"
        )


def check_priority(priority: int, *, path: str) -> None:
    """Raises TandemError INVALID_FIELD for one outside of [-100, 100]."""
    if not -_MOST_PRIORITY <= priority <= _MOST_PRIORITY:
        raise TandemError.invalid_field(path, f"must lie in [-{_MOST_PRIORITY}, {_MOST_PRIORITY}], not {priority}")


def check_rule(rule: sampling_pb2.VerificationRule.ValueType, *, is_greedy: bool) -> None:
    """Raises TandemError INVALID_FIELD where the rule of `open.verification` does not go with the temperature."""
    if rule not in sampling_pb2.VerificationRule.values() or rule == sampling_pb2.VERIFICATION_RULE_UNSPECIFIED:
        raise TandemError.invalid_field("open.verification", "must be one of greedy, ratio, block, coupled")
    if is_greedy != (rule == sampling_pb2.VERIFICATION_RULE_GREEDY):
        raise TandemError.invalid_field(
            "open.verification", "greedy goes with temperature 0, and temperature 0 with greedy only"
        )
