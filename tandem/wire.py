"""Between the contract's messages and the types that models are run with. Used by draft and target alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tandem.distributions import CompressedRow, full_row_from_bytes, half_to_bytes
from tandem.inference.engine import EngineLoad, Timing
from tandem.inference.serving import ServedModel
from tandem.noise import NoiseStream
from tandem.rpc.errors import TandemError
from tandem.sampling import SamplingParams
from tandem.v1 import block_pb2, distribution_pb2, model_pb2, sampling_pb2


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
    )


def model_info(served: ServedModel) -> model_pb2.ModelInfo:
    loaded = served.loaded
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
    )


def noise_stream(key: sampling_pb2.RandomKey, *, path: str) -> NoiseStream:
    """Raises TandemError INVALID_FIELD."""
    try:
        return NoiseStream(key.seed, key.choice)
    except ValueError as error:
        raise TandemError.invalid_field(path, str(error)) from error
