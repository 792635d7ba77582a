"""Between the contract's messages and the types that models are run with. Used by draft and target alike."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import torch

from tandem.constraints import Constraint, FollowsGrammar, NoEndBefore
from tandem.distributions import CompressedRow, full_row_from_bytes, half_to_bytes
from tandem.grammars import GrammarError, Grammars
from tandem.inference.engine import EngineLoad, Timing
from tandem.inference.serving import ServedModel
from tandem.inference.states import features_of
from tandem.noise import NoiseStream
from tandem.rpc.errors import TandemError
from tandem.rpc.sampling import check_priority, check_rule, check_sampling, check_token_ids
from tandem.sampling import SamplingParams
from tandem.v1 import block_pb2, distribution_pb2, draft_pb2, model_pb2, sampling_pb2, target_pb2

# Tokens that may end a text, where the vocabulary does not say how many there are.
_MOST_ENDS = 1 << 20
#: Positions whose features one message has, or may ask for beside its block's.
MOST_FEATURES = 256
# Of a distribution, as orchestrators ask for at most: a block of the longest then fits a message.
_MOST_ENTRIES = 65536


def sampling_params(message: sampling_pb2.SamplingParams) -> SamplingParams:
    """Unset fields get the value that changes nothing. The message has been checked."""
    return SamplingParams(
        temperature=message.temperature,
        top_k=message.top_k,
        top_p=message.top_p if message.HasField("top_p") else 1.0,
        min_p=message.min_p,
        repetition_penalty=message.repetition_penalty if message.HasField("repetition_penalty") else 1.0,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        logit_bias=dict(message.logit_bias),
    )


async def constraint(
    message: draft_pb2.DraftOpen | target_pb2.VerifyOpen, grammars: Grammars | None, *, path: str
) -> Constraint | None:
    """What the text of a sequence may be, besides what its sampling says; None for anything. grammars: None for a
    drafter that has no vocabulary. Raises TandemError INVALID_FIELD."""
    if message.HasField("grammar"):
        if message.min_tokens:
            raise TandemError.invalid_field(f"{path}.min_tokens", "does not go with a grammar")
        if not message.grammar_end_token_ids:
            raise TandemError.invalid_field(f"{path}.grammar_end_token_ids", "is needed by a grammar")
        if grammars is None:
            return None
        try:  # it may take a second
            matcher = await asyncio.to_thread(grammars.matcher, message.grammar, message.grammar_end_token_ids)
        except GrammarError as error:
            raise TandemError.invalid_field(f"{path}.grammar.{error.field}".rstrip("."), str(error)) from error
        return FollowsGrammar(matcher)
    return NoEndBefore(message.min_tokens, message.stop_token_ids) if message.min_tokens else None


def check_opening(message: draft_pb2.DraftOpen | target_pb2.VerifyOpen, *, path: str, vocabulary_size: int) -> None:
    """What both services are opened with. Raises TandemError INVALID_FIELD."""
    tokens = message.prompt_token_ids
    if not tokens:
        raise TandemError.invalid_field(f"{path}.prompt_token_ids", "is empty")
    check_format(message.format, path=f"{path}.format")
    for field in ("stop_token_ids", "grammar_end_token_ids"):
        if len(getattr(message, field)) > min(vocabulary_size, _MOST_ENDS):
            raise TandemError.invalid_field(f"{path}.{field}", "has more tokens than there are")
    check_token_ids(tokens, path=f"{path}.prompt_token_ids", vocabulary_size=vocabulary_size)
    if message.prompt_length > len(tokens):
        raise TandemError.invalid_field(
            f"{path}.prompt_length", f"is {message.prompt_length}, but there are {len(tokens)} tokens"
        )
    check_sampling(message.sampling, path=f"{path}.sampling", vocabulary_size=vocabulary_size)
    check_rule(message.verification, is_greedy=message.sampling.temperature == 0)
    check_token_ids(message.stop_token_ids, path=f"{path}.stop_token_ids", vocabulary_size=vocabulary_size)
    check_token_ids(
        message.grammar_end_token_ids, path=f"{path}.grammar_end_token_ids", vocabulary_size=vocabulary_size
    )
    check_priority(message.priority, path=f"{path}.priority")


def check_format(message: distribution_pb2.DistributionFormat, *, path: str) -> None:
    """Raises TandemError INVALID_FIELD."""
    if message.max_entries > _MOST_ENTRIES:  # of which a block has many
        raise TandemError.invalid_field(
            f"{path}.max_entries", f"must be at most {_MOST_ENTRIES}, not {message.max_entries}"
        )
    if not 0 <= message.mass <= 1:
        raise TandemError.invalid_field(f"{path}.mass", f"must lie in [0, 1], not {message.mass}")


def row_message(row: CompressedRow) -> distribution_pb2.CompressedDistribution:
    token_ids, log_probabilities = row.to_bytes()
    return distribution_pb2.CompressedDistribution(
        token_ids=token_ids, log_probabilities=log_probabilities, tail_mass=row.tail_mass
    )


def compressed_rows(
    messages: Sequence[distribution_pb2.CompressedDistribution], *, path: str, vocabulary_size: int
) -> list[CompressedRow]:
    """Raises TandemError INVALID_FIELD naming the distribution that is not one."""
    rows = []
    for index, message in enumerate(messages):
        try:
            rows.append(
                CompressedRow.from_bytes(
                    message.token_ids, message.log_probabilities, message.tail_mass, vocabulary_size
                )
            )
        except ValueError as error:
            raise TandemError.invalid_field(f"{path}[{index}]", str(error)) from error
    return rows


def full_row_message(index: int, log_p: torch.Tensor) -> distribution_pb2.FullRow:
    """log_p: [V] natural logarithms."""
    return distribution_pb2.FullRow(index=index, log_probabilities=half_to_bytes(log_p))


def full_row(message: distribution_pb2.FullRow, *, path: str, vocabulary_size: int) -> torch.Tensor:
    """[V] float64 natural logarithms. Raises TandemError INVALID_FIELD where the row is not one."""
    try:
        return full_row_from_bytes(message.log_probabilities, vocabulary_size)
    except ValueError as error:
        raise TandemError.invalid_field(path, str(error)) from error


def state_bytes(states: torch.Tensor | None) -> bytes:
    """Hidden states float16 [n, H] on the host as features; nothing for None."""
    return b"" if states is None else states.numpy().astype("<f2", copy=False).tobytes()


def states(data: bytes, width: int, *, path: str) -> torch.Tensor:
    """Features as hidden states float16 [n, width], at most MOST_FEATURES. Raises TandemError INVALID_FIELD."""
    if len(data) % (2 * width):
        raise TandemError.invalid_field(path, f"has {len(data)} bytes, which are no features of {width} float16 each")
    if (count := len(data) // (2 * width)) > MOST_FEATURES:
        raise TandemError.invalid_field(path, f"has features of {count} positions; at most {MOST_FEATURES}")
    found = np.frombuffer(data, "<f2").reshape(-1, width)
    if not np.isfinite(found).all():
        raise TandemError.invalid_field(path, "has a number that is not finite")
    return torch.from_numpy(found.astype(np.float16))


def timing_message(timing: Timing) -> block_pb2.Timing:
    return block_pb2.Timing(
        queue_microseconds=timing.queue_microseconds,
        compute_microseconds=timing.compute_microseconds,
        steps=timing.steps,
        step_tokens=timing.step_tokens,
        step_sequences=timing.step_sequences,
    )


def load_message(load: EngineLoad) -> model_pb2.Load:
    return model_pb2.Load(
        sessions=load.sequences,
        waiting_blocks=load.waiting,
        cache_bytes=load.cache_bytes,
        cache_capacity_bytes=load.cache_capacity_bytes,
        queued_sessions=load.queued,
        max_sessions=load.max_sequences,
        max_queue=load.max_queue,
    )


def model_info(served: ServedModel) -> model_pb2.ModelInfo:
    loaded, found = served.loaded, features_of(served.loaded.model)
    return model_pb2.ModelInfo(
        model_id=served.model_id,
        revision=served.revision,
        tokenizer_fingerprint=served.fingerprint,
        vocabulary_size=loaded.vocabulary_size,
        context_length=loaded.context_length,
        dtype=loaded.dtype,
        parameter_count=loaded.parameter_count,
        end_token_ids=loaded.end_token_ids,
        weights=loaded.weights,
        trees=True,
        features=None if found is None else model_pb2.Features(width=found.width, family=found.family),
    )


def noise_stream(key: sampling_pb2.RandomKey, *, path: str) -> NoiseStream:
    """Raises TandemError INVALID_FIELD."""
    try:
        return NoiseStream(key.seed, key.choice)
    except ValueError as error:
        raise TandemError.invalid_field(path, str(error)) from error
