"""The decoding loop of one completion: draft, verify, accept, go on (arXiv 2211.17192, algorithm 1, by rounds).

One `Decoder` is one completion. It talks to a draft and a target stream in numbers and ids and yields the tokens of
each round as they are committed. Text is not its matter.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from orchestrator.acceptance import Bracket, Judgement, Position, Source
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
from orchestrator.blocks import considered
from orchestrator.drafting import DraftSide
from orchestrator.judging import outcome, places, positions
from orchestrator.opening import verification
from orchestrator.replicas import Pair
from orchestrator.request import Plan
from orchestrator.settings import OrchestratorSettings
from orchestrator.stack.side import StackSide
from orchestrator.stopping import Limits, RoundOutcome, StopRule
from orchestrator.trees.outcome import path_outcome, place_chances
from orchestrator.trees.walk import walk
from orchestrator.verifying import TargetSide
from orchestrator.watch import LATE, NO_DRAFT, NOT_WORTH, VERIFY_GENERATE, Watch
from tandem.noise import NoiseStream
from tandem.rpc.errors import TandemError
from tandem.telemetry import spans
from tandem.telemetry.tracing import NO_SPAN
from tandem.trees import NO_TREE, Tree
from tandem.v1 import block_pb2, completion_pb2, target_pb2

_log = logging.getLogger(__name__)

_SOURCES = {
    Source.MATCHED: TokenSource.TOKEN_SOURCE_DRAFT_MATCHED,
    Source.LET_THROUGH: TokenSource.TOKEN_SOURCE_DRAFT_ACCEPTED,
}


@dataclass(frozen=True, slots=True)
class Committed:
    """What a round committed, at least one token. account: of the round, where it had candidates and they are
    audited. alone: why there were none although there might have been; empty where that is not so."""

    tokens: list[CommittedToken]
    account: completion_pb2.RoundAccount | None = None
    alone: str = ""


class Decoder:
    """Decodes one plan. `rounds()` may be iterated once; leaving it closes both streams."""

    def __init__(
        self,
        plan: Plan,
        pair: Pair,
        settings: OrchestratorSettings,
        account: Account,
        watch: Watch,
        middle: tuple[Pair, StopRule] | None = None,
    ) -> None:
        """middle: where the middle of a stack runs, with the draft below it, and what ends that one's blocks; None for
        the draft alone."""
        self._plan = plan
        self._pair = pair
        self._account = account
        self._watch = watch
        self._noise = NoiseStream(plan.seed, plan.choice)
        self._tokens = list(plan.tokens)  # and all that is committed
        self._round = 0
        self._target = TargetSide(plan, pair, self._tokens, account, watch)
        self._settings = settings
        self._draft: DraftSide | StackSide
        if middle is None:
            self._draft = self._without_middle()
        else:
            self._draft = StackSide(plan, pair, middle[0], settings, self._tokens, account, watch, middle[1])
        self._left = plan.max_tokens - len(plan.resumed)  # tokens that the completion may still have

    def _without_middle(self) -> DraftSide:
        return DraftSide(self._plan, self._pair, self._settings, self._tokens, self._account, self._watch)

    @property
    def _position(self) -> int:
        """Absolute position of the next token to commit."""
        return len(self._tokens)

    async def rounds(self) -> AsyncGenerator[Committed]:
        """Yields what each round commits, until a stop token or the plan's max_tokens."""
        try:
            async with aclosing(self._all_rounds()) as rounds:
                async for committed in rounds:
                    tokens = self._up_to_stop(committed.tokens)[: self._left]
                    self._left -= len(tokens)
                    yield replace(committed, tokens=tokens)
                    if self._left == 0 or tokens[-1].token_id in self._plan.stop_token_ids:
                        return
        except TandemError as error:
            _log.warning("a completion failed: %s", error)
            raise
        finally:
            self._target.close()
            self._draft.close()

    def _up_to_stop(self, committed: list[CommittedToken]) -> list[CommittedToken]:
        for index, token in enumerate(committed):
            if token.token_id in self._plan.stop_token_ids:
                return committed[: index + 1]
        return committed

    async def _all_rounds(self) -> AsyncGenerator[Committed]:
        """The target's first token needs no draft; then rounds, and the target alone for as long as there is no draft
        or none that pays. Goes on for as long as it is asked for more."""
        if self._plan.speculation is None:
            async with aclosing(self._alone(self._left, NO_DRAFT)) as alone:
                async for committed in alone:
                    yield committed
            return
        self._draft.open()  # both prefill at once; neither answer is waited for
        self._round += 1
        clock = RoundClock()
        with self._watch.part(spans.PREFILL, self._round):
            committed = await self._verify(block_pb2.Block(position=self._position), clock)
        self._draft.expects(clock.target.wall / 1e6)
        clock = RoundClock()
        yield committed
        while True:
            if isinstance(self._draft, StackSide) and not self._draft.is_there:
                self._draft = self._without_middle()
                self._draft.open()
            limits = self._plan.speculation.stop.limits() if not (absence := self._draft.absence()) else None
            if limits is None or not limits.max_tokens:
                tokens = self._alone_tokens(limits)
                end = self._position + tokens
                async with aclosing(self._alone(tokens, absence or NOT_WORTH)) as alone:
                    async for committed in alone:
                        yield committed
                if self._position < end:  # of the context, too
                    return
                clock = RoundClock()
                continue
            self._round += 1
            limits, shape = self._shape(limits)
            try:
                with self._watch.part(spans.ROUND, self._round):
                    block = await self._draft.block(self._round, self._position, limits, self._left, clock, shape)
                    committed = await self._verify(block, clock)
            except TandemError as error:
                if not (error.field or "").startswith(("round.block", "resolve.rows")):
                    raise
                # The target refused what the draft had made, and ended its stream: the text goes on in a new one.
                self._draft.refuse(error)
                self._target.close()
                continue
            if self._draft.cap and not block.token_ids and not self._draft.is_there:  # late, or just lost
                committed = replace(committed, alone=self._draft.absence() or LATE)
            if self._draft.is_there and self._draft.is_full:
                self._draft.close()  # the rest is the target's alone, in one go
            clock = RoundClock()  # before the yield: what is made of these tokens is part of the next round's time
            yield committed

    def _shape(self, limits: Limits) -> tuple[Limits, Tree]:
        """Of the next block, where blocks may be trees."""
        assert self._plan.speculation is not None
        tree = self._plan.speculation.tree
        return (limits, NO_TREE) if tree is None else tree.shape(limits, self._left)

    def _alone_tokens(self, limits: Limits | None) -> int:
        """limits: of a stop rule that does not want a block; None where there is no draft to make one."""
        if limits is not None:
            return min(limits.alone_tokens or self._left, self._left)
        return self._left if self._draft.is_full else min(self._draft.chunk(), self._left)

    async def _verify(self, block: block_pb2.Block, clock: RoundClock) -> Committed:
        """Verifies one block, decides, and commits the kept candidates and the token after them."""
        proposed, account = block, None

        async def decide() -> tuple[block_pb2.Block, target_pb2.VerifiedBlock, list[Position], Judgement | None]:
            verified = await self._target.verify(self._round, proposed, clock, self._draft.wants)
            submitted = considered(proposed, verified)
            if not submitted.token_ids:
                return submitted, verified, [], None
            return submitted, verified, *(await self._judge(submitted, verified, clock))

        block, verified, decided, judgement = await self._target.until_done(decide, clock)
        drafted = len(block.token_ids)
        if drafted < len(proposed.token_ids):
            self._account.unsubmitted += len(proposed.token_ids) - drafted
            self._draft.submitted(drafted)
        at = places(block, judgement or Judgement())
        if judgement is not None:
            follows = verified.target_token_ids[at.rows[-1]] if judgement.next_token is None else judgement.next_token
            if self._plan.audit:
                kept, path = judgement.kept, judgement.path
                account = round_account(block, verified, kept, decided, self._thresholds(), path)
            self._learn(block, decided, judgement, clock)
            self._watch.decided(block, decided, judgement)
            self._draft.decided(judgement.kept, judgement.path)
            self._target.decided(judgement.kept, judgement.path)
        else:
            follows = verified.target_token_ids[0]
            self._target.decided(0)
        sources = judgement.sources if judgement is not None else ()
        committed = [
            candidate_token(
                block, verified, index, row, source=_SOURCES[source], distance=_middle(decided[index].distance)
            )
            for index, row, source in zip(at.candidates, at.rows, sources, strict=False)
        ]
        committed.append(next_token(block, verified, at.rows[-1], at.rejected, follows))
        self._tokens += [block.token_ids[index] for index in at.candidates]
        self._tokens.append(follows)
        laws = [verified.distributions[row] for row in at.rows] if verified.distributions else []
        before, features = self._target.features(verified.features, len(verified.target_token_ids))
        self._draft.told(laws, len(at.rows), [features[row] for row in at.rows] if features else [], before)
        if self._round > 1:  # the first takes in the prompt
            parts = self._account.round_ended(clock, drafted=drafted)
            self._watch.timed(parts, clock.took, drafted=drafted)
            if drafted and not clock.lost:
                self._draft.sight.asking.round_ended(len(committed), clock.took / 1e6)
                self._draft.worth.round(_places(block), clock.took / 1e6, clock.target.wall / 1e6)
            if account is not None:
                account.time.CopyFrom(parts)
                account.foreseen = bool(clock.foreseen)
        return Committed(committed, account)

    async def _judge(
        self, block: block_pb2.Block, verified: target_pb2.VerifiedBlock, clock: RoundClock
    ) -> tuple[list[Position], Judgement]:
        """Decides by the rule; positions that a bracket leaves undecided are resolved by their full rows."""
        assert self._plan.speculation is not None
        accept = self._plan.speculation.accept
        decided = positions(block, verified, self._noise, self._plan.stop_token_ids)
        if block.parents:  # under lossless rules only
            return decided, walk(Tree(block.parents), decided)
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
            resolved = await self._target.resolve(self._round, rows, clock)
            self._account.full_rows += len(indices)
            self._watch.fetched(len(indices))
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

    def _learn(self, block: block_pb2.Block, decided: list[Position], judgement: Judgement, clock: RoundClock) -> None:
        """Tells both rules, in the order of verification, what became of the block."""
        assert self._plan.speculation is not None
        rules = self._plan.speculation
        self._account.verified(len(decided), judgement.kept, places=_places(block))
        rules.accept.record(decided, judgement)
        exact = verification(self._plan)
        if block.parents:
            assert rules.tree is not None
            rules.tree.learn(place_chances(block, decided, judgement))
            rules.stop.update(
                path_outcome(block, decided, judgement, exact, cap=self._draft.cap, costs=clock.costs())
            )
            return
        told = outcome(block, decided, judgement, rules.accept, exact, self._draft.cap, clock)
        rules.stop.update(told)
        if rules.tree is not None:
            rules.tree.learn([[chance] for chance in told.acceptances])
        self._draft.sight.learn(told)

    async def _alone(self, tokens: int, reason: str) -> AsyncGenerator[Committed]:
        """Plain decoding in the target, up to `tokens`: no speculation, none that pays, or no draft for now."""
        self._round += 1
        clock = RoundClock()
        is_first = self._round == 1  # and takes in the prompt
        prefill = self._watch.span.child(spans.PREFILL) if is_first else NO_SPAN
        with self._watch.exchange(VERIFY_GENERATE) as exchange:
            generated = self._target.generate(self._round, tokens, lambda: clock, self._draft.wants)
            async with aclosing(generated):
                async for token in generated:
                    exchange.answered(token.timing)
                    clock.target.add(token.timing, (time.perf_counter() - clock.started) - clock.lost)
                    committed = self._commit_alone(token)
                    if is_first:
                        prefill.end(round=self._round)
                    else:
                        parts = self._account.round_ended(clock, drafted=0)
                        self._watch.timed(parts, clock.took, drafted=0)
                        self._learn_alone(clock)
                    is_first = False
                    clock = RoundClock()
                    yield Committed([committed], alone=reason)

    def _commit_alone(self, token: target_pb2.GeneratedToken) -> CommittedToken:
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
        before, features = self._target.features(token.features, 1)
        self._draft.told([token.distribution] if token.HasField("distribution") else [], 1, features, before)
        return committed

    def _learn_alone(self, clock: RoundClock) -> None:
        """Tells the stop rule what a token without a draft costs."""
        if clock.lost:
            return
        self._draft.worth.alone(clock.took / 1e6)
        if self._plan.speculation is not None and self._draft.is_there:
            nothing = RoundOutcome(0, 0, 0, (), (), (), costs=clock.costs())
            self._plan.speculation.stop.update(nothing)


def _places(block: block_pb2.Block) -> int:
    """That its candidates are for, one behind the other."""
    return Tree(block.parents).height if block.parents else len(block.token_ids)


def _middle(distance: Bracket | None) -> float | None:
    return None if distance is None else distance.midpoint
