"""The middle model of a stack: it verifies what a draft proposes, and its text is verified by the target (HSD, arXiv
2510.19705; there each model M_i gathers T_i tokens from rounds with the one below before the next one verifies them).

Why this is lossless. The middle's text is the outcome of a lossless verification, so that each token of it has the
middle's own law p_m given those before, whatever the draft proposed; how many tokens a round yields depends on tokens
before the next one only. So the target tests candidates drawn from q = p_m, as it tests any draft's. What that takes:

- Under greedy and coupled verification ids are enough: the target emits its own token whatever was proposed.
- Under ratio and block rules q has to be known exactly and to travel. The middle cuts p_m to what is sent,
  renormalises and rounds it before it verifies against it or draws from it (`VerifyOpen.drafts`), so that the numbers
  sent are the law of its text.
- Its draws and the target's must not share noise: the middle, and whoever decides for it, have a stream of their own
  [ours: the choice's number with its highest bit set]. They carry the number of the round, since what the target
  rejects is drawn again. Under coupled verification all share one noise, which is the point of it.
- What the target rejects is taken back from the middle's text and from the draft's (`Continuation.taken_back`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from orchestrator.acceptance import BlockVerification, Coupled, RatioTest, Verification
from orchestrator.account import Account, RoundClock
from orchestrator.blocks import considered
from orchestrator.drafting import DraftSide
from orchestrator.judging import outcome, positions
from orchestrator.opening import row_format, verification
from orchestrator.replicas import Pair
from orchestrator.request import Plan, Speculation
from orchestrator.settings import OrchestratorSettings
from orchestrator.stopping import Limits, RoundOutcome, StopRule
from orchestrator.target_laws import NOTHING, Wants
from orchestrator.verifying import TargetSide
from orchestrator.watch import Watch
from tandem.block_limits import Limiter
from tandem.noise import NoiseStream
from tandem.v1 import block_pb2, distribution_pb2, draft_pb2, target_pb2

_OWN_NOISE = 1 << 23  # of a choice's number, which is less than that
_RULES = {
    Verification.GREEDY: RatioTest,
    Verification.RATIO: RatioTest,
    Verification.BLOCK: BlockVerification,
    Verification.COUPLED: Coupled,
}


@dataclass(frozen=True, slots=True)
class _Token:
    """Of the middle's text, and what the target is told of it: log p_m and H(p_m) in nats; p_m where it is sent."""

    token_id: int
    log_probability: float
    entropy: float
    row: distribution_pb2.CompressedDistribution | None


def in_the_middle(plan: Plan, stop: StopRule) -> Plan:
    """What the middle and the draft below it are asked for: the exact rule under which the target verifies."""
    rule = verification(plan)
    shares_noise = rule in (Verification.GREEDY, Verification.COUPLED)
    return replace(
        plan,
        choice=plan.choice if shares_noise else plan.choice | _OWN_NOISE,
        log_probabilities=None,
        audit=False,
        speculation=Speculation(stop, _RULES[rule](greedy=plan.is_greedy)),
    )


class Middle:
    """The middle of one completion, and the draft below it where the pair has one.

    account: of the rounds between these two. Raises the middle's TandemErrors; a draft that is lost only costs time.
    """

    def __init__(
        self,
        plan: Plan,
        pair: Pair,
        settings: OrchestratorSettings,
        tokens: Sequence[int],
        watch: Watch,
        stop: StopRule,
    ) -> None:
        """plan: of the completion. pair: of the middle, in the target's place, and the draft. tokens: the text so far.
        stop: says how long the draft's blocks are."""
        self.account = Account(len(plan.prompt))
        self.context_length = pair.target.model.context_length
        self._plan = in_the_middle(plan, stop)
        assert self._plan.speculation is not None
        self._rules = self._plan.speculation
        self._verification = verification(self._plan)
        self._text = list(tokens)
        self._noise = NoiseStream(self._plan.seed, self._plan.choice)
        self._round = 0
        form = row_format(plan, settings)
        self._sends_rows = form.max_entries > 0
        self._target = TargetSide(self._plan, pair, self._text, self.account, watch, drafts=True, form=form)
        self._draft: DraftSide | None = None
        if pair.draft is not None:
            self._draft = DraftSide(self._plan, pair, settings, self._text, self.account, watch)

    async def open(self) -> None:
        """Does not wait for answers."""
        await self._target.open()
        if self._draft is not None:
            self._draft.open()

    def become(self, tokens: Sequence[int], agreed: int) -> None:
        """The text is `tokens` now; of what was proposed so far, its first `agreed` tokens are part of it."""
        before = len(self._text)
        del self._text[agreed:]
        self._text += tokens[agreed:]
        self._target.rewind(agreed)
        if self._draft is not None:
            self._draft.rewind(agreed, before)

    async def block(self, limits: draft_pb2.DraftLimits, clock: RoundClock) -> block_pb2.Block:
        """What the middle goes on with, ended by the limits as a draft's block is. clock: of the target's round, in
        which all of this is the draft's part."""
        block, limiter = block_pb2.Block(position=len(self._text)), Limiter(limits)
        began = time.perf_counter()
        spent = block_pb2.Timing()
        ended = False
        while not ended and len(block.token_ids) < limits.max_tokens:
            for token in await self._next(limits.max_tokens - len(block.token_ids), spent):
                if ended := limiter.refuses(token.entropy):
                    break
                block.token_ids.append(token.token_id)
                block.log_probabilities.append(token.log_probability)
                block.entropies.append(token.entropy)
                if token.row is not None:
                    block.distributions.append(token.row)
                reached = limiter.after(token.entropy, token.log_probability)
                if ended := reached is not None or token.token_id in self._plan.stop_token_ids:
                    break
        spent.steps = len(block.token_ids)  # a candidate costs what it costs, whoever made it
        clock.draft.add(spent, time.perf_counter() - began)
        return block

    async def _next(self, most: int, spent: block_pb2.Timing) -> list[_Token]:
        """At least one token, at most so many."""
        limits, alone = self._limits(most)
        self._round += 1
        if self._draft is None or limits is None:
            return await self._alone(alone, spent)
        clock = RoundClock()
        drafted = await self._draft.block(self._round, len(self._text), limits, most, clock)
        verified = await self._target.verify(self._round, drafted, clock, self._wants)
        found = self._decide(drafted, verified, clock)
        _add(spent, clock)
        return found

    @property
    def _wants(self) -> Wants:
        """What of the middle is wanted only for the draft, which learns from it; where likeliest tokens are sent to the
        target anyway it is told of these."""
        wants = NOTHING if self._draft is None else self._draft.wants
        return replace(wants, entries=0) if self._sends_rows else wants

    def _limits(self, most: int) -> tuple[Limits | None, int]:
        """Of the draft's next block; None where the middle goes on alone, by so many tokens."""
        if self._draft is None:
            return None, most
        if self._draft.absence():
            return None, min(self._draft.chunk(), most)
        limits = self._rules.stop.limits()
        return (limits, 0) if limits.max_tokens else (None, min(limits.alone_tokens or most, most))

    def _decide(
        self, drafted: block_pb2.Block, verified: target_pb2.VerifiedBlock, clock: RoundClock
    ) -> list[_Token]:
        assert self._draft is not None
        block, kept, size = considered(drafted, verified), 0, 0
        follows = verified.target_token_ids[0]
        if block.token_ids:
            size = len(block.token_ids)
            decided = positions(block, verified, self._noise, self._plan.stop_token_ids)
            judgement = self._rules.accept.judge(decided)  # lossless: no distance is ever left open
            kept = judgement.kept
            follows = verified.target_token_ids[size] if judgement.next_token is None else judgement.next_token
            self.account.verified(size, kept)
            told = outcome(block, decided, judgement, self._rules.accept, self._verification, self._draft.cap, clock)
            self._rules.stop.update(told)
            self._draft.decided(kept)
        self._target.decided(kept)
        before, features = self._target.features(verified.features, len(verified.target_token_ids))
        self._draft.told(verified.distributions[: kept + 1], kept + 1, features[: kept + 1], before)
        rows: Sequence[distribution_pb2.CompressedDistribution] = verified.distributions if self._sends_rows else ()
        tokens = [
            _Token(block.token_ids[at], verified.log_probabilities[at], verified.entropies[at], _row(rows, at))
            for at in range(kept)
        ]
        column = verified.target_log_probabilities if kept == size else verified.correction_log_probabilities
        tokens.append(_Token(follows, column[kept], verified.entropies[kept], _row(rows, kept)))
        self._text += [token.token_id for token in tokens]
        return tokens

    async def _alone(self, count: int, spent: block_pb2.Timing) -> list[_Token]:
        """Read to its end: what is under way cannot be taken back."""
        tokens: list[_Token] = []
        clock = RoundClock()
        async with aclosing(self._target.generate(self._round, count, lambda: clock, self._wants)) as generated:
            async for token in generated:
                clock.target.add(token.timing, time.perf_counter() - clock.started)
                self._text.append(token.token_id)
                rows = [token.distribution] if token.HasField("distribution") else []
                row = _row(rows if self._sends_rows else [], 0)
                tokens.append(_Token(token.token_id, token.log_probability, token.entropy, row))
                if self._draft is not None:
                    before, features = self._target.features(token.features, 1)
                    self._draft.told(rows, 1, features, before)
                    self._rules.stop.update(RoundOutcome(0, 0, 0, (), (), (), costs=clock.costs()))
                _add(spent, clock)
                clock = RoundClock()
        self.account.plain_tokens += len(tokens)
        return tokens

    def close(self) -> None:
        self._target.close()
        if self._draft is not None:
            self._draft.close()


def _row(
    rows: Sequence[distribution_pb2.CompressedDistribution], at: int
) -> distribution_pb2.CompressedDistribution | None:
    return rows[at] if rows else None


def _add(spent: block_pb2.Timing, clock: RoundClock) -> None:
    """What both services spent of a round between them."""
    for exchange in (clock.draft, clock.target):
        spent.queue_microseconds += exchange.queue
        spent.compute_microseconds += exchange.compute
