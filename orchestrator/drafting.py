"""The draft's side of one completion: asks for blocks and full rows, and may be late or lost at any time without harm.

While the target verifies a block the draft may make the next one ahead, for what may become of it (`look_ahead/`).
Where that comes true nobody is asked, and the draft is told what was taken.

It is in one of four states. There: the next round has a block. Late: a block was not there in time; the target goes on
alone while the answer is waited for, which is stale by then, and speculation goes on with the round after it. Away: the
draft was lost, or there was none when the completion began; another one, or the same once it is back, is opened with
all that is committed and takes it in, while the target goes on alone. Left alone for a while: it is slower than it can
help.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from orchestrator.account import Account, RoundClock
from orchestrator.late import Late
from orchestrator.limits_message import limits_message
from orchestrator.look_ahead.sight import Sight
from orchestrator.opening import opening, row_format
from orchestrator.pace import Chunks, Patience, Worth
from orchestrator.replicas import NOT_TAKEN, Pair
from orchestrator.request import Plan
from orchestrator.returning import Return
from orchestrator.settings import OrchestratorSettings
from orchestrator.stopping import Limits
from orchestrator.streams import DraftStream
from orchestrator.target_laws import NOTHING, Wants
from orchestrator.told import Told
from orchestrator.watch import DRAFT_BLOCK, DRAFT_ROWS, LATE, NO_DRAFT, SLOW, Watch
from tandem.rpc.errors import TandemError
from tandem.rpc.handshake import check_pair, make_handshake
from tandem.trees import NO_TREE, Tree
from tandem.v1 import block_pb2, distribution_pb2, draft_pb2

_log = logging.getLogger(__name__)

# Of the patience: by so much a round has to be slower than the target alone for the draft to be left.
_MARGIN = 0.2
# What full rows are taken to need before any were asked for.
_ROWS_SECONDS = 0.5


class DraftSide:
    """One stream to a draft, or none for now. tokens: the text, as it grows."""

    def __init__(
        self,
        plan: Plan,
        pair: Pair,
        settings: OrchestratorSettings,
        tokens: Sequence[int],
        account: Account,
        watch: Watch,
    ) -> None:
        self.is_full = False  # its context ends with the last block
        self.cap = 0  # most candidates that the last block might have had
        self.sight = Sight(plan.speculation.ahead if plan.speculation is not None else None, settings, account, watch)
        self._drafted = 0  # candidates of the last block
        slack = settings.draft_patience_seconds
        self.worth = Worth(slack * _MARGIN)
        self._took_in = False
        self._plan = plan
        self._pair = pair
        self._target_model = pair.target.model
        self._settings = settings
        self._tokens = tokens
        self._account = account
        self._watch = watch
        self._stream: DraftStream | None = None
        self._told = Told(tokens)
        self._late = Late(settings.draft_timeout_seconds)
        self._return: Return | None = None
        self._chunks = Chunks()
        self._blocks = Patience(slack, settings.draft_timeout_seconds)
        self._rows = Patience(slack, _ROWS_SECONDS)

    def open(self) -> None:
        """Does not wait for an answer, nor for a draft where there is none yet. Raises TandemError where the models do
        not fit."""
        if self._pair.draft is None:
            self._seek()
            return
        check_pair(draft=self._pair.draft.model, target=self._target_model)
        self._check_trees()
        self._opening = self._open_message()
        self._stream = DraftStream.at(self._pair.draft)
        self._stream.open(self._opening)

    def _check_trees(self) -> None:
        """Raises TandemError NOT_SUPPORTED where trees are asked for and a side makes none."""
        if self._plan.speculation is None or self._plan.speculation.tree is None:
            return
        assert self._pair.draft is not None
        for side, model in (("draft", self._pair.draft.model), ("target", self._target_model)):
            if not model.trees:
                raise TandemError.not_supported("speculation.tree", f"the {side} {model.model_id} makes no trees")

    def _open_message(self) -> draft_pb2.DraftOpen:
        return draft_pb2.DraftOpen(
            handshake=make_handshake(self._target_model),
            format=row_format(self._plan, self._settings),
            **opening(self._plan, self._tokens),
        )

    # Whether there is one.

    @property
    def is_there(self) -> bool:
        """Whether the next round can have a block."""
        return self._stream is not None and not self._late.is_awaited

    def absence(self) -> str:
        """Why the target has to go on alone now; empty where there is a draft."""
        self._look()
        if self._stream is None:
            return NO_DRAFT
        if self._late.is_awaited:
            return LATE
        return SLOW if self.worth.left else ""

    def chunk(self) -> int:
        """Tokens for the target to make alone before there may be a draft again."""
        if self.worth.left and self.is_there:
            return self.worth.left
        return self._chunks.next()

    def _look(self) -> None:
        """At what has come meanwhile."""
        if (answered := self._late.take()) is not None:
            if answered.cancelled():
                self.lose(self._too_late())
            elif (error := answered.exception()) is not None:
                if not isinstance(error, TandemError):
                    raise error
                self.lose(error, is_told=True)
        if self._return is not None and (found := self._return.take()) is not None:
            self._stream, self._told.prefix = found
            self._return = None
            self.worth.anew()
            _log.info("%s: a draft is there again", self._plan.request_id)

    # Asking.

    async def block(
        self,
        round_number: int,
        position: int,
        limits: Limits,
        left: int,
        clock: RoundClock,
        shape: Tree = NO_TREE,
    ) -> block_pb2.Block:
        """The next block; an empty one where nothing is to be drafted, or the draft is late or has just been lost.
        left: tokens that the completion may still have. The most that it might have had is `cap`. shape: of a tree,
        whose paths are no longer than `left` allows; its `cap` is its height."""
        if len(shape) and self._makes_trees:
            return await self._tree(round_number, position, limits, shape, clock)
        ahead = limits.ahead or limits
        message = draft_pb2.DraftRound(
            round=round_number,
            continuation=self._told.prefix.continuation(),
            # A block of n yields up to n + 1 tokens.
            limits=limits_message(limits, min(limits.max_tokens, left - 1)),
            # The block after it follows one token at least.
            look_ahead=self.sight.request(limits_message(ahead, max(0, min(ahead.max_tokens, left - 2)))),
        )
        self.cap = message.limits.max_tokens
        block = block_pb2.Block(position=position)
        if self.cap:
            self._told.tell(message.continuation, self.wants)
            there = self._foreseen(message, limits_message(ahead, min(ahead.max_tokens, left - 1)), clock)
            if there is not None:
                block = there
            elif self._stream is not None:
                block = await self._asked(message, position, self.cap, clock)
        self._drafted = len(block.token_ids)
        return block

    @property
    def _makes_trees(self) -> bool:
        """Whether both sides do."""
        return self._pair.draft is not None and self._pair.draft.model.trees and self._pair.target.model.trees

    async def _tree(
        self, round_number: int, position: int, limits: Limits, shape: Tree, clock: RoundClock
    ) -> block_pb2.Block:
        message = draft_pb2.DraftRound(
            round=round_number,
            continuation=self._told.prefix.continuation(),
            limits=limits_message(limits, len(shape)),
            parents=shape.parents,
        )
        self.cap = shape.height
        block = block_pb2.Block(position=position)
        if self._stream is not None:
            block = await self._asked(message, position, shape.height, clock)
        self._drafted = len(block.token_ids)
        return block

    def _foreseen(
        self, message: draft_pb2.DraftRound, limits: draft_pb2.DraftLimits, clock: RoundClock
    ) -> block_pb2.Block | None:
        """The block of a round where it is there before it was asked for; the draft is told, and not waited for.
        limits: of such a block."""
        assert self._stream is not None
        try:
            found = self.sight.find(message.round, message.continuation, self._drafted, limits)
        except TandemError as error:  # it cannot be one
            self.lose(error, is_told=True)
            return None
        if found is not None or (message.HasField("look_ahead") and self.sight.foreseen.is_served):
            clock.foreseen = found is not None
        if found is None:
            return None
        block = found.block
        taken = draft_pb2.DraftTaken(
            round=message.round,
            continuation=message.continuation,
            used=len(block.token_ids),
            look_ahead=message.look_ahead if message.HasField("look_ahead") else None,
        )
        self._stream.take(taken)
        self.cap = limits.max_tokens
        self._told.prefix.is_whole()
        self._has_block(block, found.stop)
        return block

    def _has_block(self, block: block_pb2.Block, stop: draft_pb2.DraftStop.ValueType) -> None:
        self._watch.received(block)
        self.is_full = stop == draft_pb2.DRAFT_STOP_CONTEXT
        self._chunks.anew()

    async def _asked(
        self, message: draft_pb2.DraftRound, position: int, cap: int, clock: RoundClock
    ) -> block_pb2.Block:
        self._told.prefix.is_whole()  # once it has read this; what it makes of it may never be used
        try:
            with self._watch.exchange(DRAFT_BLOCK) as exchange:
                asked = self._timed(self._round(message), cap)
                drafted = await self._late.in_time(asked, self._blocks.seconds(cap), clock, exchange)
                if drafted is None:
                    return block_pb2.Block(position=position)
                exchange.answered(drafted.timing)
                clock.draft.add(drafted.timing, exchange.seconds)
                self.sight.asking.answered(drafted.timing, exchange.seconds)
        except TimeoutError:
            self.lose(self._too_late())
        except TandemError as error:
            self.lose(error, is_told=True)
        else:
            self._has_block(drafted.block, drafted.stop)
            return drafted.block
        return block_pb2.Block(position=position)

    async def _timed(self, asked: Coroutine[Any, Any, draft_pb2.DraftedBlock], cap: int) -> draft_pb2.DraftedBlock:
        """Also of an answer that is late: a draft that has become slower is not late for ever."""
        began = time.perf_counter()
        drafted = await asked
        took = time.perf_counter() - began
        if self._took_in:
            self._blocks.saw(took, min(len(drafted.block.token_ids), cap))
        else:  # and the prompt with it, which says little of the next ones
            self._blocks.expects(took)
        self._took_in = True
        return drafted

    async def _round(self, message: draft_pb2.DraftRound) -> draft_pb2.DraftedBlock:
        """The block; of another draft where the one that was chosen does not take the sequence. Nothing has been said
        to it then but what is said to the other."""
        while True:
            assert self._stream is not None and self._pair.draft is not None
            if message.HasField("look_ahead"):
                self._stream.foresees(self.sight.foreseen)
            try:
                return await self._stream.round(message)
            except TandemError as error:
                if self._stream is None or self._stream.is_open or error.reason not in NOT_TAKEN:
                    raise
                if not self._pair.next_draft():
                    raise
                _log.info("%s: another draft is asked: %s", self._plan.request_id, error)
            self._stream.close()
            self._stream = DraftStream.at(self._pair.draft)
            self._stream.open(self._opening)
            if not self._stream.wants.features:  # as the one that was chosen did
                message.continuation.ClearField("target_features")

    async def rows(
        self, round_number: int, indices: tuple[int, ...], clock: RoundClock
    ) -> list[distribution_pb2.FullRow] | None:
        """Full rows of candidates of the last block; None where the draft is gone or late."""
        if self._stream is None or self._late.is_awaited:
            return None
        message = draft_pb2.DraftRows(round=round_number, indices=indices)
        began = time.perf_counter()
        try:
            with self._watch.exchange(DRAFT_ROWS) as exchange:
                asked = self._stream.rows(message)
                answer = await self._late.in_time(asked, self._rows.seconds(len(indices)), clock, exchange)
                if answer is None:
                    return None
                exchange.answered(answer.timing)
                clock.draft.add(answer.timing, exchange.seconds)
        except TimeoutError:
            self.lose(self._too_late())
        except TandemError as error:
            self.lose(error, is_told=True)
        else:
            self._rows.saw(time.perf_counter() - began, len(indices))
            return list(answer.rows)
        return None

    @property
    def wants(self) -> Wants:
        """What it wants to be told of the target at each position."""
        return self._stream.wants if self._stream is not None else NOTHING

    def told(
        self,
        laws: Sequence[distribution_pb2.CompressedDistribution],
        committed: int,
        features: Sequence[bytes] = (),
        before: Sequence[bytes] = (),
    ) -> None:
        """So many tokens were committed. laws, features: p at their positions and what it was made of, none where it
        was not asked for. before: features of the positions before them, as far as they came."""
        self._told.said(laws, committed, features, before)

    def submitted(self, count: int) -> None:
        """Only the first `count` candidates of the last block were verified: what follows them, if all are kept, is no
        correction."""
        self._drafted = count

    def decided(self, kept: int, path: tuple[int, ...] = ()) -> None:
        """So many candidates of the last block are committed, of a tree those of `path`, and others after them."""
        self._told.prefix.decided(kept, path)

    def rewind(self, length: int, before: int) -> None:
        """The text was cut to its first `length` tokens; it may have grown again since. before: tokens that it had."""
        self._told.rewind(length, before)
        if self._return is not None:
            self._return.rewind(length)

    def expects(self, seconds: float) -> None:
        """What its first block is taken to need: as long as the target needed to take in the prompt and make a token,
        which is the larger model."""
        self._blocks.expects(seconds)

    # Losing it.

    def refuse(self, error: TandemError) -> None:
        """The target refused what the draft had made; the one that made it is not used again here."""
        if self._stream is None:  # it has been lost meanwhile
            return
        self._pair.avoid_draft()
        self.lose(self._misled(f"drafted what the target refuses: {error.message}"), is_told=True)

    def lose(self, error: TandemError, *, is_told: bool = False) -> None:
        """The completion goes on with the target alone until another is there, or this one is back. is_told: whether
        its replica knows. Raises `error` where it was the caller's time that ended."""
        if error.reason == "DEADLINE_EXCEEDED":
            raise error
        _log.warning("%s: going on without a draft: %s", self._plan.request_id, error)
        self._account.draft_failures += 1
        assert self._pair.draft is not None
        if not is_told:
            self._pair.draft.replica.told(error)
        self._pair.draft.release()
        self._end()
        self.sight.lose()
        self._chunks.anew()
        self._seek()

    def _seek(self) -> None:
        self._return = Return(self._pair, self._open_message, self._tokens, self._settings)

    def _misled(self, problem: str) -> TandemError:
        error = TandemError.draft_unavailable(problem)
        assert self._pair.draft is not None
        self._pair.draft.replica.misled(error)
        return error

    def _too_late(self) -> TandemError:
        return TandemError.draft_unavailable("took too long to answer")

    def close(self) -> None:
        """For good."""
        if self._return is not None:
            self._return.close()
            self._return = None
        self._end()
        self.sight.lose()

    def _end(self) -> None:
        self._late.forget()
        if self._stream is not None:
            self._stream.close()
            self._stream = None
