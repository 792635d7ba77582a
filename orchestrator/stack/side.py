"""A stack in the place of the draft: proposes blocks of the middle's text, and may be lost without harm."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Sequence

from orchestrator.account import Account, RoundClock
from orchestrator.limits_message import limits_message
from orchestrator.look_ahead.sight import Sight
from orchestrator.pace import Worth
from orchestrator.replicas import Pair
from orchestrator.request import Plan
from orchestrator.settings import OrchestratorSettings
from orchestrator.stack.middle import Middle
from orchestrator.stopping import Limits, StopRule
from orchestrator.target_laws import NOTHING
from orchestrator.watch import NO_DRAFT, SLOW, Watch
from tandem.rpc.errors import TandemError
from tandem.rpc.handshake import check_pair
from tandem.telemetry import Telemetry
from tandem.trees import NO_TREE, Tree
from tandem.v1 import block_pb2, distribution_pb2

_log = logging.getLogger(__name__)

# Tokens of the middle's context that a block may need beside its candidates.
_MARGIN = 2


class StackSide:
    """What `DraftSide` is to a completion, with a middle model. Once that is lost, `is_there` is false for good: the
    completion goes on with a draft's side."""

    def __init__(
        self,
        plan: Plan,
        target: Pair,
        middle: Pair,
        settings: OrchestratorSettings,
        tokens: Sequence[int],
        account: Account,
        watch: Watch,
        stop: StopRule,
    ) -> None:
        """target: where the completion runs. middle: see `Middle`. stop: of the draft's blocks below the middle."""
        self.cap = 0  # most candidates that the last block might have had
        self.is_full = False
        self.is_there = True
        self.wants = NOTHING  # the target's numbers are of no use to it
        self.sight = Sight(None, settings, account, watch)
        self.worth = Worth(settings.draft_patience_seconds)
        self._plan = plan
        self._pair = middle
        self._target_model = target.target.model
        self._settings = settings
        self._tokens = tokens
        self._account = account
        self._watch = watch
        # Its rounds are none of the completion's: they would be counted twice.
        self._middle = Middle(plan, middle, settings, tokens, Watch(_unread(), None, speculates=False), stop)
        account.middle = self._middle.account
        self._agreed = len(tokens)  # of what the middle holds
        self._opening: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Does not wait for an answer. Raises TandemError where the models do not fit."""
        check_pair(draft=self._pair.target.model, target=self._target_model)
        self._opening = asyncio.create_task(self._middle.open())
        self._opening.add_done_callback(lambda done: done.cancelled() or done.exception())

    def expects(self, seconds: float) -> None:
        """Nothing: there is one time for all that it may take."""

    def absence(self) -> str:
        """Why the target has to go on alone now; empty where it has not."""
        if not self.is_there:
            return NO_DRAFT
        return SLOW if self.worth.left else ""

    def chunk(self) -> int:
        """Tokens for the target to make alone."""
        return max(1, self.worth.left)

    async def block(
        self,
        round_number: int,
        position: int,
        limits: Limits,
        left: int,
        clock: RoundClock,
        shape: Tree = NO_TREE,
    ) -> block_pb2.Block:
        """As `DraftSide.block`; never of a tree, which is refused beside a stack."""
        room = self._middle.context_length - position - _MARGIN
        self.cap = max(0, min(limits.max_tokens, left - 1, room))
        if room < 1:
            self._lose(TandemError.draft_unavailable("the context of the middle model is full"))
        if not self.cap:
            return block_pb2.Block(position=position)
        try:
            async with asyncio.timeout(self._settings.draft_timeout_seconds):
                if self._opening is not None:
                    await self._opening
                    self._opening = None
                self._middle.become(self._tokens, self._agreed)
                self._agreed = position
                block = await self._middle.block(limits_message(limits, self.cap), clock)
        except TimeoutError:
            self._lose(TandemError.draft_unavailable("the middle model took too long to answer"))
        except TandemError as error:
            if error.reason == "DEADLINE_EXCEEDED":
                raise
            self._lose(error)
        else:
            self._watch.received(block)
            return block
        return block_pb2.Block(position=position)

    def submitted(self, count: int) -> None:
        """Nothing more: what was not verified is taken back as what was rejected."""

    def decided(self, kept: int, path: tuple[int, ...] = ()) -> None:
        """So many candidates of the last block are committed, and others after them."""
        self._agreed += kept

    def told(
        self,
        laws: Sequence[distribution_pb2.CompressedDistribution],
        committed: int,
        features: Sequence[bytes] = (),
        before: Sequence[bytes] = (),
    ) -> None:
        """Nothing: what the draft below is told of are the middle's distributions and features."""

    async def rows(
        self, round_number: int, indices: tuple[int, ...], clock: RoundClock
    ) -> list[distribution_pb2.FullRow] | None:
        """None: a middle model keeps no rows."""
        return None

    def refuse(self, error: TandemError) -> None:
        """The target refused what it has made."""
        self._lose(error)

    def _lose(self, error: TandemError) -> None:
        if self.is_there:
            _log.warning("%s: going on without the middle model: %s", self._plan.request_id, error)
            self._account.draft_failures += 1
            self.close()

    def close(self) -> None:
        """For good."""
        self.is_there = False
        if self._opening is not None:
            self._opening.cancel()
        self._middle.close()


@functools.cache
def _unread() -> Telemetry:
    return Telemetry()
