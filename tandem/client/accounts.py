"""What is told of single tokens and rounds, where it was asked for."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.client.mirror import mirrors
from tandem.client.reports import RoundTime
from tandem.v1 import completion_pb2


@mirrors(completion_pb2.TokenLogProbability)
@dataclass(frozen=True, slots=True)
class TokenLogProbability:
    """How likely a token is under the target itself, before the sampling chain; for `log_probabilities`.

    token: its bytes, which need not be whole characters; empty for a special token. log_probability: in nats. top: the
    likeliest tokens in its place, likeliest first; their own is empty.
    """

    token_id: int
    token: bytes
    log_probability: float
    top: tuple[TokenLogProbability, ...]


@mirrors(completion_pb2.TokenAccount)
@dataclass(frozen=True, slots=True)
class TokenAccount:
    """Where a token came from; for `audit`.

    source: `target`, `draft_matched`, `draft_accepted` (by a lossy rule), `correction` or `bonus`. What is of the draft
    is None where the token was not drafted, `distance` where none was measured. Entropies and logarithms are in nats.
    """

    token_id: int
    text: str
    source: str
    round: int
    draft_entropy: float | None
    draft_log_probability: float | None
    distance: float | None
    target_log_probability: float
    target_entropy: float
    rejected_token_id: int | None


@mirrors(completion_pb2.RoundAccount)
@dataclass(frozen=True, slots=True)
class RoundAccount:
    """A round with candidates; for `audit`. The columns have an entry for each candidate.

    distances: empty where none was measured. thresholds: those in force, by name. foreseen: whether the draft had made
    the block before it was asked for. parents: of a tree the index of each candidate's parent, -1 for the text before
    it; path: of a tree the kept candidates by index. Both are empty for other blocks.
    """

    round: int
    drafted: int
    kept: int
    draft_entropies: tuple[float, ...]
    draft_log_probabilities: tuple[float, ...]
    acceptance_probabilities: tuple[float, ...]
    distances: tuple[float, ...]
    thresholds: dict[str, float]
    time: RoundTime | None
    foreseen: bool
    parents: tuple[int, ...]
    path: tuple[int, ...]
