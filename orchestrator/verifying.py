"""The target's side of one completion: has blocks verified and tokens made, wherever there is a target.

A target that cannot be reached, is full, shuts down, hangs or breaks costs time and nothing else, at whatever point of
the completion's life: a stream with all that is committed is opened at another target, or at the same one once it is
back, and what was asked for is asked again. Nothing has been decided by what failed, and randomness is keyed by seed
and position, so the text is the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TypeVar

import tenacity

from orchestrator.account import Account, RoundClock
from orchestrator.opening import opening
from orchestrator.prefix import Prefix
from orchestrator.replicas import BROKEN, NOT_TAKEN, Pair
from orchestrator.request import Plan
from orchestrator.streams import TargetStream
from orchestrator.target_laws import NOTHING, Wants, feature_rows
from orchestrator.watch import VERIFY_BLOCK, VERIFY_OPEN, VERIFY_RESOLVE, Watch
from tandem.rpc.errors import TandemError
from tandem.rpc.handshake import make_handshake
from tandem.v1 import block_pb2, distribution_pb2, model_pb2, target_pb2

_log = logging.getLogger(__name__)

T = TypeVar("T")

# Between two targets: enough that completions which failed together do not all come together.
_FIRST_WAIT_SECONDS, _MOST_WAIT_SECONDS = 0.01, 0.5


class TargetSide:
    """One stream to a target, or none until there is use for one. tokens: the text, as it grows."""

    def __init__(
        self,
        plan: Plan,
        pair: Pair,
        tokens: Sequence[int],
        account: Account,
        watch: Watch,
        *,
        drafts: bool = False,
        form: distribution_pb2.DistributionFormat | None = None,
    ) -> None:
        """drafts: whether another model verifies the text. form: of what is sent of p; None for nothing."""
        self._drafts = drafts
        self._form = form
        self._plan = plan
        self._pair = pair
        self._tokens = tokens
        self._account = account
        self._watch = watch
        self._stream: TargetStream | None = None
        self._prefix = Prefix(tokens)
        self._has_begun = False

    async def until_done(self, work: Callable[[], Awaitable[T]], clock: RoundClock) -> T:
        """What `work`, all that is asked of the target for one round, returns: again from its start, at another target,
        as often as the target is lost. Raises TandemError where that does not help, or there is no other. clock: is
        told of the time that was lost."""
        began, noted = time.perf_counter(), clock.draft.wall + clock.target.wall
        try:
            result = await work()
        except TandemError as error:
            if not _another_may_do(error):
                raise
            result = await self._elsewhere(error, work, clock, began, noted)
        self._pair.settle()
        self._has_begun = True
        return result

    async def _elsewhere(
        self, error: TandemError, work: Callable[[], Awaitable[T]], clock: RoundClock, began: float, noted: int
    ) -> T:
        """noted: microseconds of the clock's exchanges when it began."""
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_another_may_do),
            wait=tenacity.wait_random_exponential(multiplier=_FIRST_WAIT_SECONDS, max=_MOST_WAIT_SECONDS),
            reraise=True,
        )
        failed: TandemError | None = None
        async for attempt in attempts:
            if failed is not None:
                await self._pair.next_target(failed)  # where there is none, what it raises ends the attempts
            with attempt:
                if failed is None:  # the attempt that has just been made
                    self.close()
                    failed = error
                    raise error
                clock.lost = time.perf_counter() - began
                told = (clock.draft.wall + clock.target.wall - noted) / 1e6  # by what went well in the attempts before
                try:
                    result = await work()
                except TandemError as again:
                    self.close()
                    failed = again
                    raise
                clock.target.waited(max(0.0, clock.lost - told))
                self._taken_over(error)
                return result
        raise AssertionError("tenacity ends by a return or by the last error")

    def _taken_over(self, error: TandemError) -> None:
        if self._has_begun:
            self._account.takeovers += 1
            self._watch.taken_over()
            _log.warning("%s: another target went on: %s", self._plan.request_id, error)

    async def open(self) -> None:
        """Where it is not open. Does not wait for an answer."""
        if self._stream is not None:
            return
        message = target_pb2.VerifyOpen(
            handshake=make_handshake(self._model()),
            log_probabilities=self._plan.log_probabilities,
            format=self._form,
            drafts=self._drafts,
            **opening(self._plan, self._tokens),
        )
        self._prefix.is_whole()
        self._stream = TargetStream.at(self._pair.target)
        with self._watch.exchange(VERIFY_OPEN):
            await self._stream.open(message)

    async def verify(
        self, round_number: int, block: block_pb2.Block, clock: RoundClock, wants: Wants = NOTHING
    ) -> target_pb2.VerifiedBlock:
        """wants: what is wanted of p at each position."""
        if block.parents and not self._pair.target.model.trees:  # one that has taken over
            raise TandemError.not_supported("round.block.parents", "the target verifies no trees")
        await self.open()
        assert self._stream is not None
        message = target_pb2.VerifyRound(
            round=round_number,
            continuation=self._prefix.continuation(),
            block=block,
            format=_format(wants.entries),
            features=self._positions(wants),
        )
        with self._watch.exchange(VERIFY_BLOCK) as exchange:
            verified = await self._stream.round(message)
            exchange.answered(verified.timing)
        clock.target.add(verified.timing, exchange.seconds)
        return verified

    async def resolve(
        self, round_number: int, rows: Sequence[distribution_pb2.FullRow], clock: RoundClock
    ) -> target_pb2.ResolvedDistances:
        """Of the block that was verified last."""
        assert self._stream is not None
        message = target_pb2.ResolveDistances(round=round_number, rows=rows)
        with self._watch.exchange(VERIFY_RESOLVE) as exchange:
            resolved = await self._stream.resolve(message)
            exchange.answered(resolved.timing)
        clock.target.add(resolved.timing, exchange.seconds)
        return resolved

    def decided(self, kept: int, path: tuple[int, ...] = ()) -> None:
        """Of the block that was verified last, which began where the text ended. Before its tokens are committed. path:
        of a tree."""
        self._prefix.is_whole()
        self._prefix.decided(kept, path)

    def rewind(self, length: int) -> None:
        """The text was cut to its first `length` tokens; it may have grown again since."""
        self._prefix.rewind(length)

    async def generate(
        self, round_number: int, most: int, clock: Callable[[], RoundClock], wants: Wants = NOTHING
    ) -> AsyncGenerator[target_pb2.GeneratedToken]:
        """Plain decoding: up to `most` tokens, fewer where a stop token or the end of the context comes first. Whoever
        reads commits each before asking for the next. clock: of the token that is being made. wants: as in
        `verify`."""
        left, is_last = most, False
        current: TargetStream | None = None  # that the tokens come from
        tokens: AsyncGenerator[target_pb2.GeneratedToken] | None = None

        async def next_token() -> target_pb2.GeneratedToken:
            nonlocal current, tokens
            await self.open()
            if tokens is None or self._stream is not current:  # at first, and after a loss
                assert self._stream is not None
                message = target_pb2.Generate(
                    round=round_number,
                    continuation=self._prefix.continuation(),
                    max_tokens=left,
                    format=_format(wants.entries),
                    features=self._positions(wants),
                )
                current = self._stream
                tokens = current.generate(message)
            return await anext(tokens)

        while left and not is_last:
            token = await self.until_done(next_token, clock())
            left, is_last = left - 1, token.last
            yield token
            self._prefix.is_whole()

    def features(self, data: bytes, positions: int) -> tuple[list[bytes], list[bytes]]:
        """Of an answer over so many positions: those of positions before them, and those of each; none of either where
        none were asked for."""
        rows = feature_rows(data, self._pair.target.model.features.width)
        return rows[: len(rows) - positions], rows[len(rows) - positions :] if rows else []

    def _positions(self, wants: Wants) -> int:
        """Whose features are asked for; 0 where the target gives none."""
        return wants.features if self._pair.target.model.HasField("features") else 0

    def close(self) -> None:
        """Ends the stream; the next thing that is asked opens another one."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _model(self) -> model_pb2.ModelInfo:
        """What the target checks itself against: what is known of it may be older than its process."""
        target = self._pair.target.model
        return model_pb2.ModelInfo(
            model_id=self._pair.draft.model.model_id if self._pair.draft is not None else "orchestrator",
            tokenizer_fingerprint=target.tokenizer_fingerprint,
            vocabulary_size=target.vocabulary_size,
        )


def _format(entries: int) -> distribution_pb2.DistributionFormat | None:
    return distribution_pb2.DistributionFormat(max_entries=entries, mass=1.0) if entries else None


def _another_may_do(error: BaseException) -> bool:
    return isinstance(error, TandemError) and (error.reason in NOT_TAKEN or error.reason in BROKEN)
