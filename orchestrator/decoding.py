"""The decoding loop of one completion: draft, verify, accept, go on (arXiv 2211.17192, algorithm 1, by rounds).

One `Decoder` is one completion. It talks to a draft and a target stream in numbers and ids and yields the tokens of
each round as they are committed. Text is not its matter.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from orchestrator.acceptance import Bracket, Judgement, Position, Source, Verification
from orchestrator.account import Account, CommittedToken, RoundClock, TokenSource, candidate_token, next_token
from orchestrator.request import Plan
from orchestrator.settings import OrchestratorSettings
from orchestrator.stopping import RoundOutcome
from orchestrator.upstream import DraftStream, Upstream
from tandem.noise import NoiseStream, Purpose
from tandem.rpc.errors import TandemError
from tandem.rpc.handshake import check_pair, make_handshake
from tandem.v1 import block_pb2, distribution_pb2, draft_pb2, model_pb2, sampling_pb2, target_pb2

_log = logging.getLogger(__name__)

_RULES = {
    Verification.GREEDY: sampling_pb2.VERIFICATION_RULE_GREEDY,
    Verification.RATIO: sampling_pb2.VERIFICATION_RULE_RATIO,
    Verification.BLOCK: sampling_pb2.VERIFICATION_RULE_BLOCK,
    Verification.COUPLED: sampling_pb2.VERIFICATION_RULE_COUPLED,
}
_ROUNDING = 1e-3  # by which a logarithm or an entropy of 0 may lie on the wrong side of it
_SOURCES = {
    Source.MATCHED: TokenSource.TOKEN_SOURCE_DRAFT_MATCHED,
    Source.LET_THROUGH: TokenSource.TOKEN_SOURCE_DRAFT_ACCEPTED,
}


class Decoder:
    """Decodes one plan. `tokens()` may be iterated once; leaving it closes both streams."""

    def __init__(
        self,
        plan: Plan,
        upstream: Upstream,
        models: tuple[model_pb2.ModelInfo, model_pb2.ModelInfo | None],
        settings: OrchestratorSettings,
        account: Account,
    ) -> None:
        self._plan = plan
        self._settings = settings
        self._upstream = upstream
        self._target_model, self._draft_model = models
        self._account = account
        self._noise = NoiseStream(plan.seed)
        self._tokens = list(plan.prompt)  # and all that is committed
        self._round = 0
        self._continuation = block_pb2.Continuation(position=self._position)
        self._target = upstream.target_stream()
        self._draft: DraftStream | None = None
        self._left = plan.max_tokens  # tokens that the completion may still have
        self._cap = 0  # most candidates asked for in this round
        self._draft_is_full = False  # its context ends with the last block

    @property
    def _position(self) -> int:
        """Absolute position of the next token to commit."""
        return len(self._tokens)

    async def tokens(self) -> AsyncGenerator[list[CommittedToken]]:
        """Yields what each round commits, at least one token, until a stop token or the plan's max_tokens."""
        try:
            await self._open()
            async with aclosing(self._rounds()) as rounds:
                async for committed in rounds:
                    committed = self._up_to_stop(committed)[: self._left]
                    self._left -= len(committed)
                    yield committed
                    if self._left == 0 or committed[-1].token_id in self._plan.stop_token_ids:
                        return
        except TandemError as error:
            _log.warning("%s: %s", self._plan.request_id, error)
            self._upstream.forget("target")  # what answers next may be another model
            self._upstream.forget("draft")
            raise
        finally:
            self._target.close()
            self._close_draft()

    def _up_to_stop(self, committed: list[CommittedToken]) -> list[CommittedToken]:
        for index, token in enumerate(committed):
            if token.token_id in self._plan.stop_token_ids:
                return committed[: index + 1]
        return committed

    async def _open(self) -> None:
        """Opens both streams at once; neither answer is waited for."""
        await self._open_target()
        if self._draft_model is None:
            return
        check_pair(draft=self._draft_model, target=self._target_model)
        self._draft = self._upstream.draft_stream()
        self._draft.open(
            draft_pb2.DraftOpen(
                handshake=make_handshake(self._target_model),
                format=self._format(self._verification()),
                **self._opening(),
            )
        )

    async def _open_target(self) -> None:
        await self._target.open(
            target_pb2.VerifyOpen(
                handshake=make_handshake(self._pair_of_target()),
                prompt_length=len(self._plan.prompt),
                **self._opening(),
            )
        )

    def _opening(self) -> dict[str, Any]:
        """What both streams are opened with."""
        return {
            "request_id": self._plan.request_id,
            "prompt_token_ids": self._tokens,
            "sampling": self._plan.sampling,
            "verification": _RULES[self._verification()],
            "random_key": sampling_pb2.RandomKey(seed=self._plan.seed),
            "stop_token_ids": sorted(self._plan.stop_token_ids),
        }

    def _pair_of_target(self) -> model_pb2.ModelInfo:
        """What the target checks itself against: what is known of it may be older than its process."""
        return model_pb2.ModelInfo(
            model_id=self._draft_model.model_id if self._draft_model is not None else "orchestrator",
            tokenizer_fingerprint=self._target_model.tokenizer_fingerprint,
            vocabulary_size=self._target_model.vocabulary_size,
        )

    def _verification(self) -> Verification:
        rules = self._plan.speculation
        if rules is not None:
            return rules.accept.verification(self._plan.is_greedy)
        # Coupled noise, so that a seed without speculation gives the text of coupled sampling with it.
        return Verification.GREEDY if self._plan.is_greedy else Verification.COUPLED

    def _format(self, rule: Verification) -> distribution_pb2.DistributionFormat:
        assert self._plan.speculation is not None
        if rule in (Verification.RATIO, Verification.BLOCK):
            return distribution_pb2.DistributionFormat(max_entries=self._settings.exact_entries, mass=1.0)
        needed = self._plan.speculation.accept.needs_distance
        return distribution_pb2.DistributionFormat(
            max_entries=self._settings.bracket_entries if needed else 0, mass=0.999
        )

    async def _rounds(self) -> AsyncGenerator[list[CommittedToken]]:
        """The target's first token needs no draft; then rounds for as long as there is one."""
        if self._draft is not None:
            self._round += 1
            committed = await self._verify(block_pb2.Block(position=self._position), RoundClock())
            clock = RoundClock()
            yield committed
        while self._draft is not None:
            block = await self._draft_block(clock)
            try:
                committed = await self._verify(block, clock)
            except TandemError as error:
                if not (error.field or "").startswith(("round.block", "resolve.rows")):
                    raise
                await self._drop_block(error)
                break
            if self._draft is not None and self._draft_is_full:
                self._close_draft()  # the rest is the target's alone, in one go
            clock = RoundClock()  # before the yield: what is made of these tokens is part of the next round's time
            yield committed
        async with aclosing(self._alone()) as alone:
            async for committed in alone:
                yield committed

    async def _drop_block(self, error: TandemError) -> None:
        """The target refused what the draft had made, and ended its stream: the text goes on in a new one, alone."""
        self._lose_draft(TandemError.draft_unavailable(f"drafted what the target refuses: {error.message}"))
        self._target.close()
        self._target = self._upstream.target_stream()
        await self._open_target()
        self._continuation = block_pb2.Continuation(position=self._position)

    async def _draft_block(self, clock: RoundClock) -> block_pb2.Block:
        """The next block; an empty one where nothing is to be drafted or the draft has just been lost."""
        assert self._draft is not None and self._plan.speculation is not None
        self._round += 1
        nothing = block_pb2.Block(position=self._position)
        limits = self._plan.speculation.stop.limits()
        # A block of n yields up to n + 1 tokens.
        self._cap = min(limits.max_tokens, self._left - 1)
        if self._left == 1:
            return nothing
        message = draft_pb2.DraftRound(
            round=self._round,
            continuation=self._continuation,
            limits=draft_pb2.DraftLimits(
                min_tokens=limits.min_tokens,
                max_tokens=self._cap,
                max_entropy_before=limits.max_entropy_before,
                max_entropy_after=limits.max_entropy_after,
                min_probability=limits.min_probability,
                min_joint_probability=limits.min_joint_probability,
            ),
        )
        try:
            async with asyncio.timeout(self._settings.draft_timeout_seconds):
                drafted = await self._draft.round(message)
            self._check(drafted)
        except TimeoutError:
            self._lose_draft(TandemError.draft_unavailable("took too long for a block"))
            return nothing
        except TandemError as error:
            self._lose_draft(error)
            return nothing
        clock.add_draft(drafted.timing)
        self._draft_is_full = drafted.stop == draft_pb2.DRAFT_STOP_CONTEXT
        return drafted.block

    def _check(self, drafted: draft_pb2.DraftedBlock) -> None:
        """A block that does not continue the text, or is not whole, must not reach the target."""
        block, size = drafted.block, len(drafted.block.token_ids)
        if (drafted.round, block.position) != (self._round, self._position):
            raise TandemError.prefix_mismatch(
                "the draft's block is for another place", expected=self._position, received=block.position
            )
        vocabulary = self._target_model.vocabulary_size
        whole = len(block.log_probabilities) == len(block.entropies) == size <= self._cap
        whole = whole and len(block.distributions) in (0, size)
        numbers = [*(-value for value in block.log_probabilities), *block.entropies]
        sane = all(-_ROUNDING < number < math.inf for number in numbers)  # NaN is not
        if not (whole and sane) or any(token >= vocabulary for token in block.token_ids):
            raise TandemError.draft_unavailable("answered with a malformed block")

    def _lose_draft(self, error: TandemError) -> None:
        """The completion goes on with the target alone; but a pair that cannot fit is the operator's mistake."""
        if error.reason in ("TOKENIZER_MISMATCH", "PROTOCOL_MISMATCH"):
            raise error
        _log.warning("%s: going on without a draft: %s", self._plan.request_id, error)
        self._account.draft_failures += 1
        self._upstream.forget("draft")
        self._close_draft()

    def _close_draft(self) -> None:
        if self._draft is not None:
            self._draft.close()
            self._draft = None

    async def _verify(self, block: block_pb2.Block, clock: RoundClock) -> list[CommittedToken]:
        """Verifies one block, decides, and commits the kept candidates and the token after them."""
        verified = await self._target.round(
            target_pb2.VerifyRound(round=self._round, continuation=self._continuation, block=block)
        )
        clock.add_target(verified.timing)
        drafted = len(block.token_ids)
        if drafted:
            positions, judgement = await self._judge(block, verified, clock)
            kept, sources = judgement.kept, judgement.sources
            follows = verified.target_token_ids[drafted] if judgement.next_token is None else judgement.next_token
            self._learn(block, positions, judgement)
        else:
            positions, kept, sources, follows = [], 0, (), verified.target_token_ids[0]
        committed = [
            candidate_token(
                block, verified, index, source=_SOURCES[sources[index]], distance=_middle(positions[index].distance)
            )
            for index in range(kept)
        ]
        committed.append(next_token(block, verified, kept, follows))
        self._tokens += block.token_ids[:kept]
        self._continuation = block_pb2.Continuation(position=self._position, kept=kept, token_ids=[follows])
        self._tokens.append(follows)
        if self._round > 1:  # the first takes in the prompt
            self._account.round_ended(clock, drafted=drafted)
        return committed

    async def _judge(
        self, block: block_pb2.Block, verified: target_pb2.VerifiedBlock, clock: RoundClock
    ) -> tuple[list[Position], Judgement]:
        """Decides by the rule; positions that a bracket leaves undecided are resolved by their full rows."""
        assert self._plan.speculation is not None
        accept = self._plan.speculation.accept
        positions = self._positions(block, verified)
        judgement = accept.judge(positions)
        while judgement.undecided:
            for index, (distance, tv) in (await self._resolve(positions, judgement.undecided, clock)).items():
                positions[index] = replace(positions[index], distance=Bracket(distance, distance), tv=tv)
            judgement = accept.judge(positions)
        return positions, judgement

    def _positions(self, block: block_pb2.Block, verified: target_pb2.VerifiedBlock) -> list[Position]:
        measured = bool(verified.distances_lower)
        return [
            Position(
                token=token,
                acceptance=verified.acceptance_probabilities[index],
                u=self._uniform(Purpose.ACCEPT, block.position + index, verified.acceptance_probabilities[index]),
                v=self._uniform(Purpose.KDE, block.position + index) if measured else 0.0,
                correction=verified.correction_token_ids[index],
                target_token=verified.target_token_ids[index],
                in_support=verified.in_support[index],
                distance=Bracket(verified.distances_lower[index], verified.distances_upper[index])
                if measured
                else None,
                tv=verified.total_variations[index] if measured else None,
                exact_only=token in self._plan.stop_token_ids,
            )
            for index, token in enumerate(block.token_ids)
        ]

    def _uniform(self, purpose: Purpose, position: int, probability: float = 0.5) -> float:
        """Decides an event of `probability`; drawn only where there is something to decide (it takes its time)."""
        return self._noise.uniform(purpose, position, self._round) if 0 < probability < 1 else 0.0

    async def _resolve(
        self, positions: list[Position], indices: tuple[int, ...], clock: RoundClock
    ) -> dict[int, tuple[float, float]]:
        """Distance and total variation of each index from full rows; their upper bounds once the draft is lost."""
        if self._draft is not None:
            try:
                async with asyncio.timeout(self._settings.draft_timeout_seconds):
                    rows = await self._draft.rows(draft_pb2.DraftRows(round=self._round, indices=indices))
                if tuple(row.index for row in rows.rows) != indices:
                    raise TandemError.draft_unavailable("answered with other rows than were asked for")
            except TimeoutError:
                self._lose_draft(TandemError.draft_unavailable("took too long for full rows"))
            except TandemError as error:
                self._lose_draft(error)
            else:
                clock.add_draft(rows.timing)
                message = target_pb2.ResolveDistances(round=self._round, rows=rows.rows)
                resolved = await self._target.resolve(message)
                clock.add_target(resolved.timing)
                self._account.full_rows += len(indices)
                measured = zip(resolved.distances, resolved.total_variations, strict=True)
                return dict(zip(resolved.indices, measured, strict=True))
        upper = {}
        for index in indices:
            distance, tv = positions[index].distance, positions[index].tv
            assert distance is not None and tv is not None  # undecided means measured, but not closely enough
            upper[index] = (distance.upper, tv)
        return upper

    def _learn(self, block: block_pb2.Block, positions: list[Position], judgement: Judgement) -> None:
        """Tells both rules, in the order of verification, what became of the block."""
        assert self._plan.speculation is not None
        drafted, kept = len(positions), judgement.kept
        self._account.verified(drafted, kept)
        self._plan.speculation.accept.record(positions, judgement)
        self._plan.speculation.stop.update(
            RoundOutcome(
                drafted=drafted,
                accepted=kept,
                cap=self._cap,
                entropies=tuple(block.entropies),
                probabilities=tuple(math.exp(value) for value in block.log_probabilities),
                matched=(True,) * kept + (False,) * (kept < drafted),
            )
        )

    async def _alone(self) -> AsyncGenerator[list[CommittedToken]]:
        """Plain decoding in the target: no speculation, or the draft is gone."""
        self._round += 1
        message = target_pb2.Generate(round=self._round, continuation=self._continuation, max_tokens=self._left)
        clock = RoundClock()
        is_first = self._round == 1  # and takes in the prompt
        async for token in self._target.generate(message):
            clock.add_target(token.timing)
            committed = CommittedToken(
                token_id=token.token_id,
                source=TokenSource.TOKEN_SOURCE_TARGET,
                round=token.round,
                target_log_probability=token.log_probability,
                target_entropy=token.entropy,
            )
            if not is_first:
                self._account.round_ended(clock, drafted=0)
            is_first = False
            clock = RoundClock()
            yield [committed]


def _middle(distance: Bracket | None) -> float | None:
    return None if distance is None else distance.midpoint
