"""The account of one completion: where each token came from, what each round cost."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from orchestrator.acceptance import AcceptRule, Position
from orchestrator.look_ahead.tally import Tally
from orchestrator.request import Speculation
from orchestrator.stopping import RoundCosts
from tandem.v1 import block_pb2, completion_pb2, target_pb2

TokenSource = completion_pb2.TokenSource


@dataclass(frozen=True, slots=True)
class ModelLogProbability:
    """log p of a token under the target itself, and of the likeliest tokens in its place, (token, log p). Nats."""

    value: float
    top: Sequence[tuple[int, float]] = ()

    @classmethod
    def of(cls, value: float, top: target_pb2.TopTokens) -> Self:
        return cls(value, list(zip(top.token_ids, top.log_probabilities, strict=True)))


@dataclass(slots=True)
class CommittedToken:
    """One token of the completion and what is known of it; the fields of TokenAccount but its text. model: where it was
    asked for."""

    token_id: int
    source: TokenSource.ValueType
    round: int
    target_log_probability: float
    target_entropy: float
    draft_entropy: float | None = None
    draft_log_probability: float | None = None
    distance: float | None = None
    rejected_token_id: int | None = None
    model: ModelLogProbability | None = None

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
class Exchange:
    """Time spent with one service in one round, in microseconds. wall: from asking to having the answer; all of it,
    so that what is neither queue nor compute is the wire's."""

    wall: int = 0
    queue: int = 0
    compute: int = 0
    steps: int = 0
    step_tokens: int = 0
    step_sequences: int = 0

    def parts(self) -> tuple[int, int, int]:
        """Queue, compute and wire; together `wall`. A service that goes on by itself, token by token, may have begun
        before it was waited for: what it did by then took none of this time."""
        compute = min(self.compute, self.wall)
        queue = min(self.queue, self.wall - compute)
        return queue, compute, self.wall - compute - queue

    def waited(self, seconds: float) -> None:
        """In vain."""
        self.wall += round(seconds * 1e6)

    def add(self, timing: block_pb2.Timing, seconds: float) -> None:
        self.wall += round(seconds * 1e6)
        self.queue += timing.queue_microseconds
        self.compute += timing.compute_microseconds
        self.steps += timing.steps
        self.step_tokens += timing.step_tokens
        self.step_sequences += timing.step_sequences


@dataclass(slots=True)
class RoundClock:
    """Splits the wall time of one round. Microseconds. took: all of it, once the round has ended. lost: seconds that a
    target cost that was lost. foreseen: whether the block was there before it was asked for; None where nothing was to
    be."""

    started: float = field(default_factory=time.perf_counter)
    took: int = 0
    lost: float = 0.0
    draft: Exchange = field(default_factory=Exchange)
    target: Exchange = field(default_factory=Exchange)
    foreseen: bool | None = None

    def wall(self) -> int:
        return round((time.perf_counter() - self.started) * 1e6)

    def parts(self, wall: int) -> completion_pb2.RoundTime:
        """Of a round that took `wall` in all."""
        draft_queue, draft_compute, draft_wire = self.draft.parts()
        target_queue, target_compute, target_wire = self.target.parts()
        return completion_pb2.RoundTime(
            draft_queue_microseconds=draft_queue,
            draft_compute_microseconds=draft_compute,
            draft_wire_microseconds=draft_wire,
            target_queue_microseconds=target_queue,
            target_compute_microseconds=target_compute,
            target_wire_microseconds=target_wire,
            orchestrator_microseconds=max(0, wall - self.draft.wall - self.target.wall),
        )

    def costs(self) -> RoundCosts | None:
        """Up to now. None where time was lost that no other round will take."""
        if self.lost:
            return None
        draft, target = self.draft, self.target
        steps = max(1, target.steps)
        other = max(0, self.wall() - draft.compute - target.compute - target.queue)
        return RoundCosts(
            draft_seconds=min(draft.compute, draft.wall) / 1e6,  # it is always waited for
            draft_steps=draft.steps,
            target_seconds=target.compute / steps / 1e6,
            target_queue_seconds=target.queue / 1e6,
            target_tokens=target.step_tokens / steps,
            target_sequences=target.step_sequences / steps,
            other_seconds=other / 1e6,
            draft_wire_seconds=min(other, max(0, draft.wall - draft.compute)) / 1e6,
            foreseen=self.foreseen,
        )


class Account:
    """Sums over one completion, reported in its last message."""

    def __init__(self, prompt_tokens: int, resumed_tokens: int = 0) -> None:
        """resumed_tokens: of the completion, made elsewhere."""
        self._prompt_tokens = prompt_tokens
        self._arrived = time.perf_counter()
        self._first_token: float | None = None
        self._overheads: list[int] = []
        self._overheads_alone: list[int] = []
        self._rounds = 0
        self._parts = completion_pb2.RoundTime()
        self._accepted_at: list[int] = []
        self.completion_tokens = self._resumed = resumed_tokens
        self.emitted_draft_tokens = 0
        self.drafted = 0
        self.accepted = 0
        self.verify_steps = 0
        self.unsubmitted = 0  # candidates that the target had no room for
        self.full_rows = 0
        self.draft_failures = 0
        self.plain_tokens = 0
        self.takeovers = 0
        self.look_ahead: Tally | None = None
        self.middle: Account | None = None  # of rounds between the draft and the middle of a stack

    def round_ended(self, clock: RoundClock, *, drafted: int) -> completion_pb2.RoundTime:
        """drafted: candidates; the overhead of a round is that of one with candidates, if there are any such."""
        wall = clock.wall()
        parts = clock.parts(wall)
        clock.took = wall
        self._rounds += wall
        for part in parts.DESCRIPTOR.fields:
            setattr(self._parts, part.name, getattr(self._parts, part.name) + getattr(parts, part.name))
        overheads = self._overheads if drafted else self._overheads_alone
        overheads.append(wall - parts.draft_compute_microseconds - parts.target_compute_microseconds)
        return parts

    def verified(self, drafted: int, accepted: int, *, places: int | None = None) -> None:
        """One verification of `drafted` candidates, at least one, of which `accepted` were kept. places: that they were
        for, one behind the other; as many unless given."""
        self.verify_steps += 1
        self.drafted += drafted
        self.accepted += accepted
        self._accepted_at += [0] * ((drafted if places is None else places) - len(self._accepted_at))
        for index in range(accepted):
            self._accepted_at[index] += 1

    def emitted(self, token: CommittedToken) -> None:
        if self._first_token is None:
            self._first_token = time.perf_counter()
        self.completion_tokens += 1
        drafted = (TokenSource.TOKEN_SOURCE_DRAFT_MATCHED, TokenSource.TOKEN_SOURCE_DRAFT_ACCEPTED)
        self.emitted_draft_tokens += token.source in drafted
        self.plain_tokens += token.source == TokenSource.TOKEN_SOURCE_TARGET

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens of a verification; 1 without any."""
        return 1 + self.accepted / self.verify_steps if self.verify_steps else 1.0

    @property
    def acceptance_rate(self) -> float:
        """Of candidates; 0 without any."""
        return self.accepted / self.drafted if self.drafted else 0.0

    def usage(self) -> completion_pb2.Usage:
        return completion_pb2.Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self.completion_tokens,
            accepted_prediction_tokens=self.emitted_draft_tokens,
            rejected_prediction_tokens=self.drafted - self.emitted_draft_tokens,
        )

    def speculation(self, rules: Speculation | None) -> completion_pb2.SpeculationReport:
        accept: AcceptRule | None = rules.accept if rules else None
        ahead = self.look_ahead.message() if self.look_ahead is not None and rules else None
        return completion_pb2.SpeculationReport(
            stop_rule=rules.stop.name if rules else "off",
            accept_rule=accept.name if accept else "off",
            lossy=bool(accept and accept.lossy),
            lossy_tokens=accept.let_through if accept else 0,
            lossy_charge=accept.charge if accept else 0.0,
            verify_steps=self.verify_steps,
            drafted_tokens=self.drafted,
            accepted_tokens=self.accepted,
            mean_acceptance_length=self.mean_acceptance_length,
            draft_acceptance_rate=self.acceptance_rate,
            accepted_at=self._accepted_at,
            full_rows=self.full_rows,
            time=self._time(),
            thresholds={**rules.stop.thresholds(), **rules.accept.thresholds()} if rules else {},
            draft_failures=self.draft_failures,
            plain_tokens=self.plain_tokens,
            look_ahead=ahead,
            unsubmitted_tokens=self.unsubmitted,
            middle=self.middle.below() if self.middle is not None else None,
        )

    def below(self) -> completion_pb2.MiddleReport:
        """Of the rounds of a middle model."""
        return completion_pb2.MiddleReport(
            verify_steps=self.verify_steps,
            drafted_tokens=self.drafted,
            accepted_tokens=self.accepted,
            plain_tokens=self.plain_tokens,
            draft_failures=self.draft_failures,
        )

    @property
    def pace(self) -> tuple[float, int]:
        """Seconds of all rounds but the first, and the tokens that they made."""
        return self._rounds / 1e6, max(0, self.completion_tokens - self._resumed - 1)

    def _time(self) -> completion_pb2.TimeReport:
        now = time.perf_counter()
        first = self._first_token if self._first_token is not None else now
        overheads = self._overheads or self._overheads_alone
        overhead = statistics.median(overheads) if overheads else 0
        return completion_pb2.TimeReport(
            first_token_microseconds=round((first - self._arrived) * 1e6),
            total_microseconds=round((now - self._arrived) * 1e6),
            draft_compute_microseconds=self._parts.draft_compute_microseconds,
            target_compute_microseconds=self._parts.target_compute_microseconds,
            rounds_microseconds=self._rounds,
            round_overhead_median_microseconds=max(0, round(overhead)),
            rounds=self._parts,
        )


def round_account(
    block: block_pb2.Block,
    verified: target_pb2.VerifiedBlock,
    kept: int,
    decided: Sequence[Position],
    thresholds: Mapping[str, float],
    path: Sequence[int] = (),
) -> completion_pb2.RoundAccount:
    """The account of a round with candidates, but for its time, which is not over. thresholds: those that it had. path:
    of a tree."""
    measured = [position.distance.midpoint for position in decided if position.distance is not None]
    return completion_pb2.RoundAccount(
        round=verified.round,
        drafted=len(block.token_ids),
        kept=kept,
        parents=block.parents,
        path=path,
        draft_entropies=block.entropies,
        draft_log_probabilities=block.log_probabilities,
        acceptance_probabilities=verified.acceptance_probabilities,
        distances=measured,
        thresholds=thresholds,
    )


def candidate_token(
    block: block_pb2.Block,
    verified: target_pb2.VerifiedBlock,
    index: int,
    row: int,
    *,
    source: TokenSource.ValueType,
    distance: float | None,
) -> CommittedToken:
    """The account of a kept candidate. row: of its position."""
    return CommittedToken(
        token_id=block.token_ids[index],
        source=source,
        round=verified.round,
        target_log_probability=verified.log_probabilities[index],
        target_entropy=verified.entropies[row],
        draft_entropy=block.entropies[index],
        draft_log_probability=block.log_probabilities[index],
        distance=distance,
        model=_of_model(verified, index, row, verified.model.candidates),
    )


def next_token(
    block: block_pb2.Block, verified: target_pb2.VerifiedBlock, row: int, rejected: int | None, token_id: int
) -> CommittedToken:
    """The account of the token after the kept candidates: correction, bonus, or the target's own. row: of its position;
    rejected: the first candidate there, if any."""
    of_model, index = verified.model.targets, row
    log_probability = verified.target_log_probabilities[row]
    if rejected is None:
        source = TokenSource.TOKEN_SOURCE_BONUS if block.token_ids else TokenSource.TOKEN_SOURCE_TARGET
    else:
        source = TokenSource.TOKEN_SOURCE_CORRECTION
        if token_id == verified.correction_token_ids[rejected]:
            log_probability = verified.correction_log_probabilities[rejected]
            of_model, index = verified.model.corrections, rejected
    return CommittedToken(
        token_id=token_id,
        source=source,
        round=verified.round,
        target_log_probability=log_probability,
        target_entropy=verified.entropies[row],
        rejected_token_id=None if rejected is None else block.token_ids[rejected],
        model=_of_model(verified, index, row, of_model),
    )


def _of_model(
    verified: target_pb2.VerifiedBlock, index: int, row: int, column: Sequence[float]
) -> ModelLogProbability | None:
    """column: of the tokens in question, of which it is `index`. row: of its position. None where it was not asked
    for."""
    if not verified.HasField("model"):
        return None
    top = verified.model.top[row] if verified.model.top else target_pb2.TopTokens()
    return ModelLogProbability.of(column[index], top)
