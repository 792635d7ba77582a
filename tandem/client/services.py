"""What is served, how busy it is, and the tokens of a text."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.client.mirror import mirrors
from tandem.v1 import completion_pb2, model_pb2


@mirrors(model_pb2.VocabularyIntersection)
@dataclass(frozen=True, slots=True)
class VocabularyIntersection:
    """How a draft of another family speaks its target's ids: by the tokens that both have."""

    own_tokenizer_fingerprint: str
    own_vocabulary_size: int
    shared_tokens: int
    fingerprint: str


@mirrors(model_pb2.Features)
@dataclass(frozen=True, slots=True)
class Features:
    """Hidden states of a model, which another may be fed with. width: numbers for a position. family: of the model."""

    width: int
    family: str


@mirrors(model_pb2.Feeding)
@dataclass(frozen=True, slots=True)
class Feeding:
    """What a draft is fed with. positions: of the text's end, at first."""

    features: Features
    positions: int


@mirrors(model_pb2.ModelInfo)
@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that is served. context_length: of prompt and completion together; 0 for no bound. trees: whether blocks
    of candidates may be trees. intersection: of a draft that speaks the ids of another tokenizer than its own; None for
    others. features: hidden states that it can give; fed_with: of a draft that reads its target's; None for others."""

    model_id: str
    revision: str
    tokenizer_fingerprint: str
    vocabulary_size: int
    context_length: int
    dtype: str
    parameter_count: int
    end_token_ids: tuple[int, ...]
    weights: str
    trees: bool
    intersection: VocabularyIntersection | None
    features: Features | None
    fed_with: Feeding | None


@mirrors(completion_pb2.GetModelsResponse)
@dataclass(frozen=True, slots=True)
class Models:
    """draft: None where none is reachable; the target goes on alone then."""

    target: ModelInfo
    draft: ModelInfo | None


@mirrors(model_pb2.Load)
@dataclass(frozen=True, slots=True)
class ServiceLoad:
    """Work in the draft or the target service. queued_sessions: of the sessions, those that wait for their first step.
    cache_capacity_bytes, max_sessions, max_queue: bounds; 0 where there is none."""

    sessions: int
    waiting_blocks: int
    cache_bytes: int
    cache_capacity_bytes: int
    queued_sessions: int
    max_sessions: int
    max_queue: int


@mirrors(completion_pb2.Replica)
@dataclass(frozen=True, slots=True)
class Replica:
    """One process of the draft or the target service. state: `ready`, `failed` (it does not answer) or `mismatched`;
    problem: why it is not ready. completions: of the orchestrator that was asked."""

    address: str
    state: str
    problem: str
    model: ModelInfo | None
    load: ServiceLoad | None
    completions: int


@mirrors(completion_pb2.GetLoadResponse)
@dataclass(frozen=True, slots=True)
class Load:
    """completions: under way in this orchestrator. target, draft: of all replicas that are ready together; None where
    none is. targets, drafts: every replica that is known of."""

    completions: int
    target: ServiceLoad | None
    draft: ServiceLoad | None
    targets: tuple[Replica, ...]
    drafts: tuple[Replica, ...]


@mirrors(completion_pb2.TokenizeResponse)
@dataclass(frozen=True, slots=True)
class Tokens:
    """context_length: most tokens that the target takes, prompt and completion together; 0 for no limit."""

    token_ids: tuple[int, ...]
    context_length: int
