"""A draft that looks ahead, slowly but truly: it drafts a block for each outcome by a sequence of its own, as an asked
round would. Which outcomes it foresees, and when it says so, is the test's choice; and a target that waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from draft_service.drafters.base import Candidates, DraftSequence, SequenceSpec
from draft_service.server import DraftServicer
from draft_service.stream import DraftStream
from tandem.progress import Progress
from tandem.rpc.errors import TandemError
from tandem.v1 import block_pb2, draft_pb2
from tandem.wire import row_message
from target_service.server import TargetServicer

Outcome = tuple[int, int]  # candidates that are kept, the token after them
#: Of a block: the text before it, its candidates.
Foresees = Callable[[Sequence[int], Sequence[int]], list[Outcome]]


def every(vocabulary: int, keep: Callable[[int], bool] = lambda token: True) -> Foresees:
    """All outcomes that there are, with a token that `keep` allows."""

    def foresees(tokens: Sequence[int], candidates: Sequence[int]) -> list[Outcome]:
        ends: list[int | None] = [*candidates, None]
        return [(kept, t) for kept, x in enumerate(ends) for t in range(vocabulary) if t != x and keep(t)]

    return foresees


def known(*texts: Sequence[int]) -> Foresees:
    """The outcome that comes true, where one of `texts` is the whole text; a wrong one before it."""

    def foresees(tokens: Sequence[int], candidates: Sequence[int]) -> list[Outcome]:
        for text in texts:
            rest = list(text[len(tokens) :])
            if list(text[: len(tokens)]) != list(tokens) or not rest:
                continue
            matches = [x == t for x, t in zip(candidates, rest, strict=False)]
            kept = matches.index(False) if False in matches else len(matches)
            if kept < len(rest):
                wrong = (rest[kept] + 1) % 64
                is_outcome = kept == len(candidates) or wrong != candidates[kept]
                return [*([(kept, wrong)] if is_outcome else []), (kept, rest[kept])]
        return []

    return foresees


def wrong(foresees: Foresees, vocabulary: int = 64) -> Foresees:
    """The same outcomes with other tokens: none of them comes true."""

    def others(tokens: Sequence[int], candidates: Sequence[int]) -> list[Outcome]:
        true = foresees(tokens, candidates)[-1:]
        return [(kept, (token + 2) % vocabulary) for kept, token in true]

    return others


@dataclass(eq=False)
class Foresight:
    """foresees: the outcomes. sends: `at once`; `late`, once they are of no use any more; `twice`; `torn`, without the
    first candidates; `never`. stops_after: candidates of a branch that are sent. sent, taken: messages, blocks.
    pushed: the last round of each request of which all was said."""

    foresees: Foresees
    sends: str = "at once"
    stops_after: int = 64
    sent: int = 0
    taken: int = 0
    pushed: dict[str, float] = field(default_factory=dict)
    _change: asyncio.Event = field(default_factory=asyncio.Event)

    def done(self, request_id: str, round_number: float) -> None:
        self.pushed[request_id] = round_number
        self._change.set()
        self._change = asyncio.Event()

    async def until(self, request_id: str, round_number: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                while self.pushed.get(request_id, -1) < round_number:
                    await self._change.wait()


class ForeseeingDraft(DraftServicer):
    """Needs `foresight`."""

    foresight: Foresight

    async def Draft(  # noqa: N802
        self, request_iterator: AsyncIterator[draft_pb2.DraftRequest], context: Any
    ) -> AsyncGenerator[draft_pb2.DraftResponse]:
        stream = _Stream(self, request_iterator)
        task = asyncio.create_task(stream.run(context))
        try:
            while (response := await stream.out.get()) is not None:
                if isinstance(response, Exception):
                    raise response
                if isinstance(response, float | int):
                    self.foresight.done(stream.request_id, response)
                else:
                    yield response
        finally:
            self.foresight.done(stream.request_id, float("inf"))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class _Stream:
    """One sequence. out: what is to be said; a number where all was said of a round."""

    def __init__(self, service: ForeseeingDraft, requests: AsyncIterator[draft_pb2.DraftRequest]) -> None:
        self.out: asyncio.Queue[draft_pb2.DraftResponse | Exception | float | None] = asyncio.Queue()
        self.request_id = ""
        self._service, self._foresight = service, service.foresight
        self._requests = requests
        self._looking: asyncio.Task[None] | None = None
        self._late: list[draft_pb2.DraftedAhead] = []
        self._branches: dict[Outcome, list[int]] = {}  # as they were drafted

    async def run(self, context: Any) -> None:
        try:
            await self._run(context)
        except Exception as error:
            await self.out.put(error)
        await self.out.put(None)

    async def _run(self, context: Any) -> None:
        first = await anext(self._requests)
        self.request_id = first.open.request_id
        spec = await self._service._spec(first.open, context.time_remaining())
        with self._service._telemetry.session(self.request_id) as session:
            sequence = await self._service._drafter.open(spec)
            try:
                opened = draft_pb2.DraftOpened(model=self._service._drafter.info)
                await self.out.put(draft_pb2.DraftResponse(opened=opened))
                progress = Progress(
                    list(spec.tokens), self._service._vocabulary_size, self._service._most_tokens, spec.prompt_length
                )
                asked = DraftStream(sequence, progress, session, lambda: None)
                async for request in self._requests:
                    await self._stop_looking(is_rows=request.HasField("rows"))
                    await self._take(request, sequence, progress, asked, spec)
            finally:
                try:
                    await self._stop_looking()  # may be cancelled in its turn
                finally:
                    await sequence.close()

    async def _stop_looking(self, *, is_rows: bool = False) -> None:
        if self._looking is not None and not is_rows:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
            self._looking = None
        for message in [] if is_rows else self._late:
            await self._say(message)
        self._late = []

    async def _take(
        self,
        request: draft_pb2.DraftRequest,
        sequence: DraftSequence,
        progress: Progress,
        asked: DraftStream,
        spec: SequenceSpec,
    ) -> None:
        if request.WhichOneof("kind") == "taken":
            await self._taken(request.taken, sequence, progress)
            message: Any = request.taken
        else:
            response = await asked._act(request)
            if response is not None:
                await self.out.put(response)
            message = request.round
            if request.WhichOneof("kind") != "round":
                return
        if message.look_ahead.max_branches and self._foresight.sends != "never":
            self._looking = asyncio.create_task(self._look(message, list(progress.tokens), progress.candidates, spec))
        else:
            await self.out.put(message.round)

    async def _taken(self, message: draft_pb2.DraftTaken, sequence: DraftSequence, progress: Progress) -> None:
        self._foresight.taken += 1
        outcome = message.continuation.kept, message.continuation.token_ids[0]
        if outcome not in self._branches:
            raise TandemError.prefix_mismatch("a block was taken that was not sent", expected=0, received=0)
        cached = progress.advance(message.round, message.continuation, path="taken.continuation")
        limits = draft_pb2.DraftLimits(max_tokens=message.used)
        true: Candidates = await sequence.draft(progress.tokens, cached, message.round, limits)
        # What an asked round would have given is what was sent.
        assert true.token_ids == self._branches[outcome][: message.used]
        progress.candidates = true.token_ids

    async def _look(
        self,
        message: draft_pb2.DraftRound | draft_pb2.DraftTaken,
        tokens: list[int],
        candidates: list[int],
        spec: SequenceSpec,
    ) -> None:
        asked, foresight = message.look_ahead, self._foresight
        outcomes = foresight.foresees(tokens, candidates)[: asked.max_branches]
        texts = [[*tokens, *candidates[:kept], t] for kept, t in outcomes]
        made = await asyncio.gather(*(self._branch(spec, text, message.round + 1, asked.limits) for text in texts))
        self._branches = {outcome: block.token_ids for outcome, block in zip(outcomes, made, strict=True)}
        said = self._messages(message.round, len(tokens), outcomes, made)
        if foresight.sends == "late":
            self._late = said
        else:
            for each in said:
                await self._say(each)
        await self.out.put(message.round)

    async def _say(self, message: draft_pb2.DraftedAhead) -> None:
        self._foresight.sent += 1
        await self.out.put(draft_pb2.DraftResponse(ahead=message))

    async def _branch(
        self, spec: SequenceSpec, tokens: list[int], round_number: int, limits: draft_pb2.DraftLimits
    ) -> Candidates:
        sequence = await self._service._drafter.open(replace(spec, tokens=tuple(tokens)))
        try:
            return await sequence.draft(tokens, spec.prompt_length, round_number, limits)
        finally:
            await sequence.close()

    def _messages(
        self, round_number: int, position: int, outcomes: Sequence[Outcome], made: Sequence[Candidates]
    ) -> list[draft_pb2.DraftedAhead]:
        """The first candidate of each, then the rest of each."""
        sends, most = self._foresight.sends, self._foresight.stops_after
        parts: list[draft_pb2.DraftedAhead] = []
        for start, end in ((0, 1), (1, most)):
            message = draft_pb2.DraftedAhead(round=round_number)
            for (kept, token), block in zip(outcomes, made, strict=True):
                size = len(block.token_ids)
                is_last = size <= end
                if start >= size and start:
                    continue
                at = slice(start, min(end, size))
                message.branches.add(
                    kept=kept,
                    token_id=token,
                    sent=start,
                    block=block_pb2.Block(
                        position=position + kept + 1 + start,
                        token_ids=block.token_ids[at],
                        log_probabilities=block.log_probabilities[at],
                        entropies=block.entropies[at],
                        distributions=[row_message(row) for row in block.rows[at]],
                    ),
                    stop=block.stop if is_last else draft_pb2.DRAFT_STOP_UNSPECIFIED,
                )
            if message.branches:
                parts.append(message)
        if sends == "twice":
            return [each for each in parts for _ in range(2)]
        return parts[1:] if sends == "torn" else parts


class PatientTarget(TargetServicer):
    """A target that answers a block once its outcomes have been foreseen. Needs `foresight`."""

    foresight: Foresight

    async def Verify(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncGenerator[Any]:  # noqa: N802
        opened = ""

        async def requests() -> AsyncGenerator[Any]:
            nonlocal opened
            async for request in request_iterator:
                if request.HasField("open"):
                    opened = request.open.request_id
                elif request.HasField("round") and request.round.block.token_ids:
                    await self.foresight.until(opened, request.round.round)
                yield request

        async for response in super().Verify(requests(), context):
            yield response


def foreseeing(foresight: Foresight) -> dict[str, Callable[..., Any]]:
    """For `trio`: a draft with this foresight, and a target that waits for it."""

    def draft(*arguments: Any) -> ForeseeingDraft:
        servicer = ForeseeingDraft(*arguments)
        servicer.foresight = foresight
        return servicer

    def target(*arguments: Any) -> PatientTarget:
        servicer = PatientTarget(*arguments)
        servicer.foresight = foresight
        return servicer

    return {"serve_draft": draft, "serve_target": target}
