"""The draft's side of one completion: asks for blocks and full rows, and may be lost at any time without harm."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import Any

from orchestrator.account import Account, RoundClock
from orchestrator.request import Plan
from orchestrator.settings import OrchestratorSettings
from orchestrator.stopping import Limits
from orchestrator.upstream import DraftStream, Upstream
from tandem.rpc.errors import TandemError
from tandem.rpc.handshake import check_pair, make_handshake
from tandem.v1 import block_pb2, distribution_pb2, draft_pb2, model_pb2

_log = logging.getLogger(__name__)

_ROUNDING = 1e-3  # by which a logarithm or an entropy of 0 may lie on the wrong side of it


class DraftSide:
    """One stream to the draft, or none any more."""

    def __init__(
        self,
        plan: Plan,
        upstream: Upstream,
        target_model: model_pb2.ModelInfo,
        settings: OrchestratorSettings,
        account: Account,
    ) -> None:
        self.is_full = False  # its context ends with the last block
        self._continuation = block_pb2.Continuation(position=len(plan.prompt))  # what it has to be told
        self._plan = plan
        self._upstream = upstream
        self._target_model = target_model
        self._settings = settings
        self._account = account
        self._stream: DraftStream | None = None

    @property
    def is_there(self) -> bool:
        return self._stream is not None

    def open(
        self, model: model_pb2.ModelInfo, format: distribution_pb2.DistributionFormat, opening: dict[str, Any]
    ) -> None:
        """Does not wait for an answer. Raises TandemError where the models do not fit."""
        check_pair(draft=model, target=self._target_model)
        self._stream = self._upstream.draft_stream()
        self._stream.open(draft_pb2.DraftOpen(handshake=make_handshake(self._target_model), format=format, **opening))

    async def block(
        self, round_number: int, position: int, limits: Limits, cap: int, clock: RoundClock
    ) -> block_pb2.Block:
        """The next block, of at most `cap` candidates; an empty one where the draft has just been lost."""
        assert self._stream is not None
        message = draft_pb2.DraftRound(
            round=round_number, continuation=self._continuation, limits=limits_message(limits, cap)
        )
        try:
            began = time.perf_counter()
            async with asyncio.timeout(self._settings.draft_timeout_seconds):
                drafted = await self._stream.round(message)
            clock.draft.add(drafted.timing, time.perf_counter() - began)
            self._check(drafted, round_number, position, cap)
        except TimeoutError:
            self.lose(TandemError.draft_unavailable("took too long for a block"))
        except TandemError as error:
            self.lose(error)
        else:
            self.is_full = drafted.stop == draft_pb2.DRAFT_STOP_CONTEXT
            self._continuation = block_pb2.Continuation(position=position)
            return drafted.block
        return block_pb2.Block(position=position)

    def committed(self, kept: int, follows: int) -> None:
        """To be told with the next round: `kept` candidates of the last block, then this token and those after it."""
        self._continuation.kept += kept
        self._continuation.position += kept
        self._continuation.token_ids.append(follows)

    async def rows(
        self, round_number: int, indices: tuple[int, ...], clock: RoundClock
    ) -> list[distribution_pb2.FullRow] | None:
        """Full rows of candidates of the last block; None where the draft is gone."""
        if self._stream is None:
            return None
        try:
            began = time.perf_counter()
            async with asyncio.timeout(self._settings.draft_timeout_seconds):
                answer = await self._stream.rows(draft_pb2.DraftRows(round=round_number, indices=indices))
            clock.draft.add(answer.timing, time.perf_counter() - began)
            if tuple(row.index for row in answer.rows) != indices:
                raise TandemError.draft_unavailable("answered with other rows than were asked for")
        except TimeoutError:
            self.lose(TandemError.draft_unavailable("took too long for full rows"))
        except TandemError as error:
            self.lose(error)
        else:
            return list(answer.rows)
        return None

    def _check(self, drafted: draft_pb2.DraftedBlock, round_number: int, position: int, cap: int) -> None:
        """A block that does not continue the text, or is not whole, must not reach the target."""
        block, size = drafted.block, len(drafted.block.token_ids)
        if (drafted.round, block.position) != (round_number, position):
            raise TandemError.prefix_mismatch(
                "the draft's block is for another place", expected=position, received=block.position
            )
        vocabulary = self._target_model.vocabulary_size
        whole = len(block.log_probabilities) == len(block.entropies) == size <= cap
        whole = whole and len(block.distributions) in (0, size)
        numbers = [*(-value for value in block.log_probabilities), *block.entropies]
        sane = all(-_ROUNDING < number < math.inf for number in numbers)  # NaN is not
        if not (whole and sane) or any(token >= vocabulary for token in block.token_ids):
            raise TandemError.draft_unavailable("answered with a malformed block")

    def lose(self, error: TandemError) -> None:
        """The completion goes on with the target alone; but a pair that cannot fit is the operator's mistake."""
        if error.reason in ("TOKENIZER_MISMATCH", "PROTOCOL_MISMATCH"):
            raise error
        _log.warning("%s: going on without a draft: %s", self._plan.request_id, error)
        self._account.draft_failures += 1
        self._upstream.forget("draft")
        self.close()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def limits_message(limits: Limits, cap: int) -> draft_pb2.DraftLimits:
    """cap: most candidates, `limits.max_tokens` or fewer."""
    message = draft_pb2.DraftLimits(
        min_tokens=limits.min_tokens,
        max_tokens=cap,
        max_entropy_before=limits.max_entropy_before,
        max_entropy_after=limits.max_entropy_after,
        min_probability=limits.min_probability,
        min_joint_probability=limits.min_joint_probability,
        min_survival=limits.min_survival,
    )
    for entropy, acceptance in limits.acceptance_curve:
        message.acceptance_curve.entropies.append(entropy)
        message.acceptance_curve.acceptances.append(acceptance)
    return message
