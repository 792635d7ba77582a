"""The account of one completion: where each token came from, what each round cost."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

from orchestrator.acceptance import AcceptRule
from orchestrator.request import Speculation
from tandem.v1 import block_pb2, completion_pb2, target_pb2

TokenSource = completion_pb2.TokenSource


@dataclass(slots=True)
class CommittedToken:
    """One token of the completion and what is known of it; the fields of TokenAccount but its text."""

    token_id: int
    source: TokenSource.ValueType
    round: int
    target_log_probability: float
    target_entropy: float
    draft_entropy: float | None = None
    draft_log_probability: float | None = None
    distance: float | None = None
    rejected_token_id: int | None = None

    def to_message(self, text: str) -> completion_pb2.TokenAccount:
        return completion_pb2.TokenAccount(
            token_id=self.token_id,
            text=text,
            source=self.source,
            round=self.round,
            target_log_probability=self.target_log_probability,
            target_entropy=self.target_entropy,
            draft_entropy=self.draft_entropy,
            draft_log_probability=self.draft_log_probability,
            distance=self.distance,
            rejected_token_id=self.rejected_token_id,
        )


@dataclass(slots=True)
class RoundClock:
    """Splits the wall time of one round. Microseconds."""

    started: float = field(default_factory=time.perf_counter)
    draft: int = 0
    target: int = 0

    def add_draft(self, timing: block_pb2.Timing) -> None:
        self.draft += timing.compute_microseconds

    def add_target(self, timing: block_pb2.Timing) -> None:
        self.target += timing.compute_microseconds

    def wall(self) -> int:
        return round((time.perf_counter() - self.started) * 1e6)


class Account:
    """Sums over one completion, reported in its last message."""

    def __init__(self, prompt_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._arrived = time.perf_counter()
        self._first_token: float | None = None
        self._overheads: list[int] = []
        self._overheads_alone: list[int] = []
        self._draft = self._target = self._rounds = 0
        self._accepted_at: list[int] = []
        self.completion_tokens = 0
        self.emitted_draft_tokens = 0
        self.drafted = 0
        self.accepted = 0
        self.verify_steps = 0
        self.full_rows = 0
        self.draft_failures = 0

    def round_ended(self, clock: RoundClock, *, drafted: int) -> None:
        """drafted: candidates; the overhead of a round is that of one with candidates, if there are any such."""
        wall = clock.wall()
        self._draft += clock.draft
        self._target += clock.target
        self._rounds += wall
        overheads = self._overheads if drafted else self._overheads_alone
        overheads.append(wall - clock.draft - clock.target)

    def verified(self, drafted: int, accepted: int) -> None:
        """One verification of `drafted` candidates, at least one, of which `accepted` were kept."""
        self.verify_steps += 1
        self.drafted += drafted
        self.accepted += accepted
        self._accepted_at += [0] * (drafted - len(self._accepted_at))
        for index in range(accepted):
            self._accepted_at[index] += 1

    def emitted(self, token: CommittedToken) -> None:
        if self._first_token is None:
            self._first_token = time.perf_counter()
        self.completion_tokens += 1
        drafted = (TokenSource.TOKEN_SOURCE_DRAFT_MATCHED, TokenSource.TOKEN_SOURCE_DRAFT_ACCEPTED)
        self.emitted_draft_tokens += token.source in drafted

    def usage(self) -> completion_pb2.Usage:
        return completion_pb2.Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self.completion_tokens,
            accepted_prediction_tokens=self.emitted_draft_tokens,
            rejected_prediction_tokens=self.drafted - self.emitted_draft_tokens,
        )

    def speculation(self, rules: Speculation | None) -> completion_pb2.SpeculationReport:
        accept: AcceptRule | None = rules.accept if rules else None
        return completion_pb2.SpeculationReport(
            stop_rule=rules.stop.name if rules else "off",
            accept_rule=accept.name if accept else "off",
            lossy=bool(accept and accept.lossy),
            lossy_tokens=accept.let_through if accept else 0,
            lossy_charge=accept.charge if accept else 0.0,
            verify_steps=self.verify_steps,
            drafted_tokens=self.drafted,
            accepted_tokens=self.accepted,
            mean_acceptance_length=1 + self.accepted / self.verify_steps if self.verify_steps else 1.0,
            draft_acceptance_rate=self.accepted / self.drafted if self.drafted else 0.0,
            accepted_at=self._accepted_at,
            full_rows=self.full_rows,
            time=self._time(),
            thresholds={**rules.stop.thresholds(), **rules.accept.thresholds()} if rules else {},
            draft_failures=self.draft_failures,
        )

    def _time(self) -> completion_pb2.TimeReport:
        now = time.perf_counter()
        first = self._first_token if self._first_token is not None else now
        overheads = self._overheads or self._overheads_alone
        overhead = statistics.median(overheads) if overheads else 0
        return completion_pb2.TimeReport(
            first_token_microseconds=round((first - self._arrived) * 1e6),
            total_microseconds=round((now - self._arrived) * 1e6),
            draft_compute_microseconds=self._draft,
            target_compute_microseconds=self._target,
            rounds_microseconds=self._rounds,
            round_overhead_median_microseconds=max(0, round(overhead)),
        )


def candidate_token(
    block: block_pb2.Block,
    verified: target_pb2.VerifiedBlock,
    index: int,
    *,
    source: TokenSource.ValueType,
    distance: float | None,
) -> CommittedToken:
    """The account of a kept candidate."""
    return CommittedToken(
        token_id=block.token_ids[index],
        source=source,
        round=verified.round,
        target_log_probability=verified.log_probabilities[index],
        target_entropy=verified.entropies[index],
        draft_entropy=block.entropies[index],
        draft_log_probability=block.log_probabilities[index],
        distance=distance,
    )


def next_token(block: block_pb2.Block, verified: target_pb2.VerifiedBlock, kept: int, token_id: int) -> CommittedToken:
    """The account of the token after the kept candidates: correction, bonus, or the target's own."""
    drafted = len(block.token_ids)
    if kept == drafted:
        log_probability = verified.target_log_probabilities[kept]
        source = TokenSource.TOKEN_SOURCE_BONUS if drafted else TokenSource.TOKEN_SOURCE_TARGET
    else:
        source = TokenSource.TOKEN_SOURCE_CORRECTION
        is_residual = token_id == verified.correction_token_ids[kept]
        column = verified.correction_log_probabilities if is_residual else verified.target_log_probabilities
        log_probability = column[kept]
    return CommittedToken(
        token_id=token_id,
        source=source,
        round=verified.round,
        target_log_probability=log_probability,
        target_entropy=verified.entropies[kept],
        rejected_token_id=block.token_ids[kept] if kept < drafted else None,
    )
