"""What is served, how busy it is, and the tokens of a text."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.client.mirror import mirrors
from tandem.v1 import completion_pb2, model_pb2


@mirrors(model_pb2.ModelInfo)
@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that is served. context_length: of prompt and completion together; 0 for no bound."""

    model_id: str
    revision: str
    tokenizer_fingerprint: str
    vocabulary_size: int
    context_length: int
    dtype: str
    parameter_count: int
    end_token_ids: tuple[int, ...]
    weights: str


@mirrors(completion_pb2.GetModelsResponse)
@dataclass(frozen=True, slots=True)
class Models:
    """draft: None where none is reachable; the target goes on alone then."""

    target: ModelInfo
    draft: ModelInfo | None


@mirrors(model_pb2.Load)
@dataclass(frozen=True, slots=True)
class ServiceLoad:
    """Work in the draft or the target service. cache_capacity_bytes: 0 where it is not bounded."""

    sessions: int
    waiting_blocks: int
    cache_bytes: int
    cache_capacity_bytes: int


@mirrors(completion_pb2.GetLoadResponse)
@dataclass(frozen=True, slots=True)
class Load:
    """completions: under way in this orchestrator. A service that does not answer is None."""

    completions: int
    target: ServiceLoad | None
    draft: ServiceLoad | None


@mirrors(completion_pb2.TokenizeResponse)
@dataclass(frozen=True, slots=True)
class Tokens:
    """context_length: most tokens that the target takes, prompt and completion together; 0 for no limit."""

    token_ids: tuple[int, ...]
    context_length: int
