"""The decoding loop of one completion: draft, verify, accept, go on (arXiv 2211.17192, algorithm 1, by rounds).

One `Decoder` is one completion. It talks to a draft and a target stream in numbers and ids and yields the tokens of
each round as they are committed. Text is not its matter.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.acceptance import Bracket, Judgement, Position, Source, Verification
from orchestrator.account import (
    Account,
    CommittedToken,
    ModelLogProbability,
    RoundClock,
    TokenSource,
    candidate_token,
    next_token,
    round_account,
)
from orchestrator.drafting import DraftSide
from orchestrator.judging import expected_acceptances, positions
from orchestrator.request import Plan
from orchestrator.settings import OrchestratorSettings
from orchestrator.stopping import Limits, RoundOutcome
from orchestrator.upstream import Upstream
from tandem.noise import NoiseStream
from tandem.rpc.errors import TandemError
from tandem.rpc.handshake import make_handshake
from tandem.v1 import block_pb2, completion_pb2, distribution_pb2, model_pb2, sampling_pb2, target_pb2

_log = logging.getLogger(__name__)

_RULES = {
    Verification.GREEDY: sampling_pb2.VERIFICATION_RULE_GREEDY,
    Verification.RATIO: sampling_pb2.VERIFICATION_RULE_RATIO,
    Verification.BLOCK: sampling_pb2.VERIFICATION_RULE_BLOCK,
    Verification.COUPLED: sampling_pb2.VERIFICATION_RULE_COUPLED,
}
_SOURCES = {
    Source.MATCHED: TokenSource.TOKEN_SOURCE_DRAFT_MATCHED,
    Source.LET_THROUGH: TokenSource.TOKEN_SOURCE_DRAFT_ACCEPTED,
}


@dataclass(frozen=True, slots=True)
class Committed:
    """What a round committed, at least one token. account: of the round, where it had candidates and they are
    audited."""

    tokens: list[CommittedToken]
    account: completion_pb2.RoundAccount | None = None


class Decoder:
    """Decodes one plan. `rounds()` may be iterated once; leaving it closes both streams."""

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
        self._noise = NoiseStream(plan.seed, plan.choice)
        self._tokens = list(plan.prompt)  # and all that is committed
        self._round = 0
        self._continuation = block_pb2.Continuation(position=self._position)  # what the target has to be told
        self._target = upstream.target_stream()
        self._draft = DraftSide(plan, upstream, self._target_model, settings, account)
        self._left = plan.max_tokens  # tokens that the completion may still have

    @property
    def _position(self) -> int:
        """Absolute position of the next token to commit."""
        return len(self._tokens)

    async def rounds(self) -> AsyncGenerator[Committed]:
        """Yields what each round commits, until a stop token or the plan's max_tokens."""
        try:
            await self._open()
            async with aclosing(self._all_rounds()) as rounds:
                async for committed in rounds:
                    tokens = self._up_to_stop(committed.tokens)[: self._left]
                    self._left -= len(tokens)
                    yield replace(committed, tokens=tokens)
                    if self._left == 0 or tokens[-1].token_id in self._plan.stop_token_ids:
                        return
        except TandemError as error:
            _log.warning("%s: %s", self._plan.request_id, error)
            self._upstream.forget("target")  # what answers next may be another model
            self._upstream.forget("draft")
            raise
        finally:
            self._target.close()
            self._draft.close()

    def _up_to_stop(self, committed: list[CommittedToken]) -> list[CommittedToken]:
        for index, token in enumerate(committed):
            if token.token_id in self._plan.stop_token_ids:
                return committed[: index + 1]
        return committed

    async def _open(self) -> None:
        """Opens both streams at once; neither answer is waited for."""
        await self._open_target()
        if self._draft_model is not None:
            self._draft.open(self._draft_model, self._format(self._verification()), self._opening())

    async def _open_target(self) -> None:
        await self._target.open(
            target_pb2.VerifyOpen(
                handshake=make_handshake(self._pair_of_target()),
                log_probabilities=self._plan.log_probabilities,
                **self._opening(),
            )
        )

    def _opening(self) -> dict[str, Any]:
        """What both streams are opened with."""
        return {
            "request_id": self._plan.request_id,
            "prompt_token_ids": self._tokens,
            "prompt_length": len(self._plan.prompt),
            "sampling": self._plan.sampling,
            "verification": _RULES[self._verification()],
            "random_key": sampling_pb2.RandomKey(seed=self._plan.seed, choice=self._plan.choice),
            "stop_token_ids": sorted(self._plan.stop_token_ids),
            "min_tokens": self._plan.min_tokens,
            "grammar": self._plan.grammar,
            "grammar_end_token_ids": sorted(self._plan.grammar_end_token_ids),
            "priority": self._plan.priority,
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

    async def _all_rounds(self) -> AsyncGenerator[Committed]:
        """The target's first token needs no draft; then rounds for as long as there is one."""
        clock = RoundClock()
        if self._draft.is_there:
            self._round += 1
            committed = await self._verify(block_pb2.Block(position=self._position), 0, RoundClock())
            clock = RoundClock()
            yield committed
        while self._draft.is_there:
            assert self._plan.speculation is not None
            limits = self._plan.speculation.stop.limits()
            if not limits.max_tokens:
                async with aclosing(self._alone(min(limits.alone_tokens or self._left, self._left))) as alone:
                    async for committed in alone:
                        yield committed
                clock = RoundClock()
                continue
            self._round += 1
            # A block of n yields up to n + 1 tokens.
            cap = min(limits.max_tokens, self._left - 1)
            block = await self._draft_block(limits, cap, clock)
            try:
                committed = await self._verify(block, cap, clock)
            except TandemError as error:
                if not (error.field or "").startswith(("round.block", "resolve.rows")):
                    raise
                await self._drop_block(error)
                break
            if self._draft.is_there and self._draft.is_full:
                self._draft.close()  # the rest is the target's alone, in one go
            clock = RoundClock()  # before the yield: what is made of these tokens is part of the next round's time
            yield committed
        async with aclosing(self._alone(self._left)) as alone:
            async for committed in alone:
                yield committed

    async def _draft_block(self, limits: Limits, cap: int, clock: RoundClock) -> block_pb2.Block:
        """The next block; an empty one where nothing is to be drafted or the draft has just been lost."""
        if cap == 0:
            return block_pb2.Block(position=self._position)
        return await self._draft.block(self._round, self._position, limits, cap, clock)

    async def _drop_block(self, error: TandemError) -> None:
        """The target refused what the draft had made, and ended its stream: the text goes on in a new one, alone."""
        self._draft.lose(TandemError.draft_unavailable(f"drafted what the target refuses: {error.message}"))
        self._target.close()
        self._target = self._upstream.target_stream()
        await self._open_target()
        self._continuation = block_pb2.Continuation(position=self._position)

    async def _verify(self, block: block_pb2.Block, cap: int, clock: RoundClock) -> Committed:
        """Verifies one block, decides, and commits the kept candidates and the token after them.

        cap: most candidates that were asked for.
        """
        began = time.perf_counter()
        verified = await self._target.round(
            target_pb2.VerifyRound(round=self._round, continuation=self._continuation, block=block)
        )
        clock.target.add(verified.timing, time.perf_counter() - began)
        drafted, account = len(block.token_ids), None
        if drafted:
            decided, judgement = await self._judge(block, verified, clock)
            kept, sources = judgement.kept, judgement.sources
            follows = verified.target_token_ids[drafted] if judgement.next_token is None else judgement.next_token
            if self._plan.audit:
                account = round_account(block, verified, kept, decided, self._thresholds())
            self._learn(block, cap, decided, judgement, clock)
        else:
            decided, kept, sources, follows = [], 0, (), verified.target_token_ids[0]
        committed = [
            candidate_token(
                block, verified, index, source=_SOURCES[sources[index]], distance=_middle(decided[index].distance)
            )
            for index in range(kept)
        ]
        committed.append(next_token(block, verified, kept, follows))
        self._tokens += block.token_ids[:kept]
        self._continuation = block_pb2.Continuation(position=self._position, kept=kept, token_ids=[follows])
        self._draft.committed(kept, follows)
        self._tokens.append(follows)
        if self._round > 1:  # the first takes in the prompt
            parts = self._account.round_ended(clock, drafted=drafted)
            if account is not None:
                account.time.CopyFrom(parts)
        return Committed(committed, account)

    async def _judge(
        self, block: block_pb2.Block, verified: target_pb2.VerifiedBlock, clock: RoundClock
    ) -> tuple[list[Position], Judgement]:
        """Decides by the rule; positions that a bracket leaves undecided are resolved by their full rows."""
        assert self._plan.speculation is not None
        accept = self._plan.speculation.accept
        decided = positions(block, verified, self._noise, self._plan.stop_token_ids)
        judgement = accept.judge(decided)
        while judgement.undecided:
            for index, (distance, tv) in (await self._resolve(decided, judgement.undecided, clock)).items():
                decided[index] = replace(decided[index], distance=Bracket(distance, distance), tv=tv)
            judgement = accept.judge(decided)
        return decided, judgement

    async def _resolve(
        self, decided: list[Position], indices: tuple[int, ...], clock: RoundClock
    ) -> dict[int, tuple[float, float]]:
        """Distance and total variation of each index from full rows; their upper bounds once the draft is lost."""
        rows = await self._draft.rows(self._round, indices, clock)
        if rows is not None:
            began = time.perf_counter()
            resolved = await self._target.resolve(target_pb2.ResolveDistances(round=self._round, rows=rows))
            clock.target.add(resolved.timing, time.perf_counter() - began)
            self._account.full_rows += len(indices)
            measured = zip(resolved.distances, resolved.total_variations, strict=True)
            return dict(zip(resolved.indices, measured, strict=True))
        upper = {}
        for index in indices:
            distance, tv = decided[index].distance, decided[index].tv
            assert distance is not None and tv is not None  # undecided means measured, but not closely enough
            upper[index] = (distance.upper, tv)
        return upper

    def _thresholds(self) -> dict[str, float]:
        rules = self._plan.speculation
        return {**rules.stop.thresholds(), **rules.accept.thresholds()} if rules is not None else {}

    def _learn(
        self, block: block_pb2.Block, cap: int, decided: list[Position], judgement: Judgement, clock: RoundClock
    ) -> None:
        """Tells both rules, in the order of verification, what became of the block."""
        assert self._plan.speculation is not None
        drafted, kept, rules = len(decided), judgement.kept, self._plan.speculation
        self._account.verified(drafted, kept)
        rules.accept.record(decided, judgement)
        rules.stop.update(
            RoundOutcome(
                drafted=drafted,
                accepted=kept,
                cap=cap,
                entropies=tuple(block.entropies),
                probabilities=tuple(math.exp(value) for value in block.log_probabilities),
                matched=(True,) * kept + (False,) * (kept < drafted),
                acceptances=expected_acceptances(decided, judgement, rules.accept, self._verification()),
                costs=clock.costs(),
            )
        )

    async def _alone(self, tokens: int) -> AsyncGenerator[Committed]:
        """Plain decoding in the target, up to `tokens`: no speculation, none that pays, or the draft is gone."""
        self._round += 1
        message = target_pb2.Generate(round=self._round, continuation=self._continuation, max_tokens=tokens)
        clock = RoundClock()
        is_first = self._round == 1  # and takes in the prompt
        async for token in self._target.generate(message):
            clock.target.add(token.timing, (time.perf_counter() - clock.started))
            committed = CommittedToken(
                token_id=token.token_id,
                source=TokenSource.TOKEN_SOURCE_TARGET,
                round=token.round,
                target_log_probability=token.log_probability,
                target_entropy=token.entropy,
            )
            if token.HasField("model_log_probability"):
                committed.model = ModelLogProbability.of(token.model_log_probability, token.top)
            self._tokens.append(token.token_id)
            self._draft.committed(0, token.token_id)
            self._continuation = block_pb2.Continuation(position=self._position)  # the target holds them
            if not is_first:
                self._account.round_ended(clock, drafted=0)
                self._learn_alone(clock)
            is_first = False
            clock = RoundClock()
            yield Committed([committed])

    def _learn_alone(self, clock: RoundClock) -> None:
        """Tells the stop rule what a token without a draft costs."""
        if self._plan.speculation is not None and self._draft.is_there:
            nothing = RoundOutcome(0, 0, 0, (), (), (), costs=clock.costs())
            self._plan.speculation.stop.update(nothing)


def _middle(distance: Bracket | None) -> float | None:
    return None if distance is None else distance.midpoint
