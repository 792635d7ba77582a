"""One stream of the draft service, from its opening on: answers in order, and between them what was drafted ahead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from torch import Tensor

from draft_service.drafters.base import Candidates, DraftSequence, GrowsTrees, TakesFeatures
from draft_service.pushing import Pushers, Pushing, drafted_block
from tandem.block_limits import check_limits, check_look_ahead
from tandem.block_trees import read_tree
from tandem.progress import Progress
from tandem.rpc.errors import TandemError
from tandem.telemetry.sessions import Session, end_ahead, end_block
from tandem.telemetry.tracing import NO_SPAN
from tandem.trees import Tree
from tandem.v1 import draft_pb2
from tandem.wire import compressed_rows, full_row_message, states

# Of the target's distributions in one message.
_MOST_LAWS = 1024


class DraftStream:
    """Serves one sequence. A block is drafted also while its reader has still to take in what came ahead."""

    def __init__(
        self,
        sequence: DraftSequence,
        progress: Progress,
        session: Session,
        on_stale: Callable[[], None],
        pushers: Pushers | None = None,
        target_entries: int = 0,
        feature_width: int = 0,
    ) -> None:
        """pushers: all streams of the service. target_entries: of its drafter. feature_width: of what its drafter is
        fed with; 0 for nothing."""
        self._sequence = sequence
        self._progress = progress
        self._session = session
        self._on_stale = on_stale
        self._target_entries = target_entries
        self._feature_width = feature_width
        self._loop = asyncio.get_running_loop()
        self._pushing = Pushing(sequence)
        self._pushers = pushers or Pushers()
        self._pushes_at = 0.0  # the next message, by the loop's clock
        self._pushes = False
        self._has_grown = False  # since the last one, and somebody sees to it
        self._timer: asyncio.TimerHandle | None = None
        self._ahead = NO_SPAN  # of what is drafted ahead of the last block
        self._news = asyncio.Event()  # there may be something to write
        self._answer: draft_pb2.DraftResponse | None = None
        self._answered = asyncio.Event()

    async def responses(
        self, requests: AsyncIterator[draft_pb2.DraftRequest]
    ) -> AsyncGenerator[draft_pb2.DraftResponse]:
        answering = asyncio.create_task(self._answer_all(requests))
        answering.add_done_callback(lambda _: self._news.set())
        try:
            while self._answer is not None or not answering.done():
                await self._news.wait()
                self._news.clear()
                if self._answer is not None:
                    answer, self._answer = self._answer, None
                    yield answer
                    self._answered.set()
                while self._answer is None and self._may_push() and (message := self._pushing.next()) is not None:
                    yield message
                    self._pushing.written()
                    self._pushes_at = self._loop.time() + self._pushers.interval
            await answering
        finally:
            answering.cancel()
            try:
                await asyncio.gather(answering, return_exceptions=True)
            finally:  # which may be cancelled in its turn
                self._settle()
                if self._timer is not None:
                    self._timer.cancel()

    def _may_push(self) -> bool:
        """Where it is too early, it will be tried again in time."""
        if self._loop.time() < self._pushes_at:
            if self._timer is None:
                self._timer = self._loop.call_at(self._pushes_at, self._push_again)
            return False
        self._has_grown = False
        return True

    def _push_again(self) -> None:
        self._timer = None
        self._news.set()

    async def _answer_all(self, requests: AsyncIterator[draft_pb2.DraftRequest]) -> None:
        async for request in requests:
            response = await self._act(request)
            if response is not None:
                self._answered.clear()
                self._answer = response
                self._news.set()
                await self._answered.wait()

    async def _act(self, request: draft_pb2.DraftRequest) -> draft_pb2.DraftResponse | None:
        kind = request.WhichOneof("kind")
        if kind == "round":
            return await self._draft(request.round)
        if kind == "rows":
            return draft_pb2.DraftResponse(rows=await self._rows(request.rows))
        if kind == "taken":
            self._take(request.taken)
            return None
        raise TandemError.unexpected_message(f"`{kind}` is not allowed on an open stream")

    async def _draft(self, message: draft_pb2.DraftRound) -> draft_pb2.DraftResponse | None:
        progress = self._progress
        if progress.is_stale(message.round):
            self._on_stale()
            return None
        check_limits(message.limits, path="round.limits")
        check_look_ahead(message.look_ahead, path="round.look_ahead")
        shape = _shape(message)
        self._settle()
        span = self._session.block()
        cached = self._advance(message, "round.continuation")
        if len(shape):
            block = await self._draft_tree(message, cached, shape)
        else:
            foresees = message.look_ahead.max_branches > 0
            block = await self._sequence.draft(
                progress.tokens, cached, message.round, message.limits, foresees=foresees
            )
        progress.candidates, progress.tree = block.token_ids, Tree(block.parents)
        end_block(span, message.round, len(block.token_ids), block.timing)
        self._look_ahead(message.look_ahead)
        return draft_pb2.DraftResponse(block=drafted_block(message.round, progress.position, block))

    async def _draft_tree(self, message: draft_pb2.DraftRound, cached: int, shape: Tree) -> Candidates:
        sequence = self._sequence
        if not isinstance(sequence, GrowsTrees):
            raise TandemError.not_supported("round.parents", "this drafter makes no trees")
        return await sequence.draft_tree(self._progress.tokens, cached, message.round, message.limits, shape)

    def _take(self, message: draft_pb2.DraftTaken) -> None:
        progress = self._progress
        if progress.is_stale(message.round):
            self._on_stale()
            return
        check_look_ahead(message.look_ahead, path="taken.look_ahead")
        position, follows = message.continuation.position, message.continuation.token_ids
        sent = self._sequence.foreseen(position, follows[0]) if len(follows) == 1 else None
        if sent is None:
            raise TandemError.prefix_mismatch(
                "taken.continuation names no block that was sent",
                expected=progress.position + message.continuation.kept,
                received=position,
            )
        if message.used > sent:
            raise TandemError.invalid_field("taken.used", f"is {message.used}, but {sent} candidates were sent")
        self._settle(taken=True)
        self._advance(message, "taken.continuation")
        progress.candidates = self._sequence.take(position, follows[0], message.used, progress.tokens)
        self._look_ahead(message.look_ahead)

    def _advance(self, message: draft_pb2.DraftRound | draft_pb2.DraftTaken, path: str) -> int:
        """As `Progress.advance`; what the continuation tells of the target goes to the drafter."""
        progress, laws = self._progress, message.continuation.target_distributions
        if laws and not self._target_entries:
            raise TandemError.invalid_field(f"{path}.target_distributions", "is nothing that this drafter asks for")
        if len(laws) > _MOST_LAWS:
            raise TandemError.invalid_field(
                f"{path}.target_distributions", f"has {len(laws)} entries; at most {_MOST_LAWS}"
            )
        features = self._features(message.continuation.target_features, f"{path}.target_features")
        cached = progress.advance(message.round, message.continuation, path=path)
        if features is not None:
            if len(features) > len(progress.tokens):
                raise TandemError.invalid_field(
                    f"{path}.target_features", f"has {len(features)} positions for {len(progress.tokens)} tokens"
                )
            assert isinstance(self._sequence, TakesFeatures)
            self._sequence.fed(progress.tokens, features)
        if laws:
            if len(laws) > len(progress.tokens):
                raise TandemError.invalid_field(
                    f"{path}.target_distributions", f"has {len(laws)} entries for {len(progress.tokens)} tokens"
                )
            rows = compressed_rows(
                laws, path=f"{path}.target_distributions", vocabulary_size=progress.vocabulary_size
            )
            self._sequence.told(progress.tokens, rows)
        return cached

    def _features(self, data: bytes, path: str) -> Tensor | None:
        """Raises TandemError INVALID_FIELD."""
        if not data:
            return None
        if not self._feature_width:
            raise TandemError.invalid_field(path, "is nothing that this drafter asks for")
        return states(data, self._feature_width, path=path)

    def _look_ahead(self, plan: draft_pb2.LookAhead) -> None:
        """A reader that has not even taken in what came before the last block is not sent more."""
        if plan.max_branches and self._pushing.begin(self._progress.round, self._progress.position, plan):
            self._ahead = self._session.ahead()
            self._pushers.streams += 1
            self._pushes, self._pushes_at, self._has_grown = True, 0.0, False
            self._sequence.look_ahead(self._progress.tokens, self._progress.round, plan, self._grown)

    def _settle(self, *, taken: bool = False) -> None:
        """What became of the last block is known, or nobody will know it. To be called while that is the last one."""
        self._pushing.end()
        if self._pushes:
            self._pushers.streams -= 1
        self._pushes = False
        span, self._ahead = self._ahead, NO_SPAN
        if span.is_recorded:
            branches = [len(branch.drawn) for branch in self._sequence.ahead()]
            end_ahead(span, self._progress.round, branches, taken=taken)

    def _grown(self) -> None:
        """On any thread."""
        if self._has_grown:
            return
        self._has_grown = True
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:
            """The event loop is gone."""

    async def _rows(self, message: draft_pb2.DraftRows) -> draft_pb2.DraftedRows:
        progress = self._progress
        if message.round != progress.round:
            raise TandemError.unexpected_message(
                f"rows of round {message.round} are gone; the last block is of round {progress.round}"
            )
        if len(message.indices) > (size := len(progress.candidates)):
            raise TandemError.invalid_field("rows.indices", f"names more than {size} candidates")
        if len(set(message.indices)) < len(message.indices):  # each row is as long as the vocabulary
            raise TandemError.invalid_field("rows.indices", "names a candidate twice")
        for index in message.indices:
            if index >= len(progress.candidates):
                raise TandemError.invalid_field(
                    "rows.indices", f"{index} is not below the block's {len(progress.candidates)} candidates"
                )
        rows = await self._sequence.full_rows(message.indices)

        def drafted() -> draft_pb2.DraftedRows:
            messages = [full_row_message(index, row) for index, row in zip(message.indices, rows, strict=True)]
            return draft_pb2.DraftedRows(round=message.round, rows=messages)

        return await asyncio.to_thread(drafted)  # waits for the device, and copies a vocabulary for each row


def _shape(message: draft_pb2.DraftRound) -> Tree:
    """Of the tree that is asked for. Raises TandemError INVALID_FIELD."""
    shape = read_tree(message.parents, path="round.parents")
    if len(shape) > message.limits.max_tokens:
        raise TandemError.invalid_field(
            "round.parents", f"has {len(shape)} candidates, but limits.max_tokens is {message.limits.max_tokens}"
        )
    if len(shape) and message.look_ahead.max_branches:
        raise TandemError.invalid_field("round.look_ahead", "does not go with round.parents")
    return shape
