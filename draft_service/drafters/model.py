"""A draft model: one forward pass per candidate, shared with the other sequences of the service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from draft_service.drafters.base import Ahead, Candidates, Counts, DraftSequence, SequenceSpec, no_rows
from draft_service.drafters.drawing import Drawn, is_sampled
from draft_service.drafters.growth import Growth, Voice, candidates, receive_grown
from draft_service.drafters.look_ahead import Base, Branch, LookAhead
from draft_service.drafters.outcomes import Ranking, likeliest
from draft_service.drafters.rows import RowsAgain
from draft_service.drafters.trees import TreeDrafting
from tandem.distributions import CompressedRow
from tandem.inference import runner
from tandem.inference.engine import Engine, EngineLoad
from tandem.inference.observer import EngineObserver
from tandem.inference.work import SingleWork
from tandem.rpc.errors import TandemError
from tandem.sampling import History, SamplingChain
from tandem.sayable import Sayable
from tandem.trees import Tree
from tandem.v1 import draft_pb2, model_pb2
from tandem.wire import timing_message


class ModelDrafter:
    """Drafts with a language model."""

    def __init__(
        self,
        engine: Engine,
        info: model_pb2.ModelInfo,
        ranking: Ranking = likeliest,
        sayable: Sayable | None = None,
    ) -> None:
        """ranking: which outcomes are drafted for ahead. sayable: tokens that the model can say; None for all."""
        self._engine = engine
        self._sayable = sayable
        self._ranking = ranking
        self.info = info
        self.counts = Counts()
        self.target_entries = 0

    async def start(self) -> None:
        self._engine.start()

    async def open(self, spec: SequenceSpec) -> DraftSequence:
        sequence = await self._engine.open(spec.priority, tokens=len(spec.tokens) - 1, within=spec.within)
        return ModelSequence(self._engine, sequence, spec, self.info, self._ranking, self.counts, self._sayable)

    def load(self) -> EngineLoad:
        return self._engine.load()

    def observe(self, observer: EngineObserver) -> None:
        self._engine.attach(observer)

    async def close(self) -> None:
        await self._engine.close()


class ModelSequence:
    """One sequence and its cache. The prompt is processed at once, while the target does the same."""

    def __init__(
        self,
        engine: Engine,
        sequence: runner.Sequence,
        spec: SequenceSpec,
        info: model_pb2.ModelInfo,
        ranking: Ranking = likeliest,
        counts: Counts | None = None,
        sayable: Sayable | None = None,
    ) -> None:
        self._engine = engine
        self._sequence = sequence
        self._spec = spec
        self._context_length = info.context_length
        self._vocabulary_size = info.vocabulary_size
        self._chain = SamplingChain(spec.sampling, info.vocabulary_size, spec.constraint)
        self._history = History(spec.tokens[: spec.prompt_length])
        self._voice = Voice(spec, self._chain, self._history, info.context_length, sayable)
        self._ahead = LookAhead(engine, sequence, self._voice, ranking, counts or Counts())
        self._drawn: Sequence[Drawn] = ()  # the last block
        self._base: Base | None = None
        self._before: Sequence[int] = ()  # all before it
        self._rows: list[Tensor | None] = []  # of its candidates
        self._prefill = asyncio.ensure_future(self._process_prompt())

    async def _process_prompt(self) -> None:
        # The last token waits for the first round, which needs its logits.
        prompt = self._spec.tokens[:-1]
        if prompt and len(prompt) < self._context_length:
            await self._engine.run(Prefill(self._sequence, prompt))

    async def draft(
        self,
        tokens: Sequence[int],
        cached: int,
        round_number: int,
        limits: draft_pb2.DraftLimits,
        *,
        foresees: bool = False,
    ) -> Candidates:
        await self._prefill
        self._rows, self._drawn, self._base, self._before = [], (), None, tokens
        if len(tokens) >= self._context_length:
            self._engine.call(self._ahead.stop)
            return Candidates(stop=draft_pb2.DRAFT_STOP_CONTEXT)
        start = self._spec.prompt_length
        self._history.become(tokens[start:], cached - start)
        foresees = foresees and self._ahead.is_possible
        work = _Drafting(self, tokens, cached, round_number, limits, foresees=foresees)
        timing = await self._engine.run(work)
        self._drawn = work.growth.drawn
        block = work.block
        block.timing = timing_message(timing)
        return block

    async def draft_tree(
        self,
        tokens: Sequence[int],
        cached: int,
        round_number: int,
        limits: draft_pb2.DraftLimits,
        shape: Tree,
    ) -> Candidates:
        """See `base.GrowsTrees`."""
        if self._chain.follows_one_text:
            raise TandemError.invalid_field("round.parents", "does not go with a grammar")
        await self._prefill
        self._rows, self._drawn, self._base, self._before = [], (), None, tokens
        self._engine.call(self._ahead.stop)
        if len(tokens) >= self._context_length:
            return Candidates(stop=draft_pb2.DRAFT_STOP_CONTEXT)
        start = self._spec.prompt_length
        self._history.become(tokens[start:], cached - start)
        work = TreeDrafting(self._sequence, self._voice, tokens, cached, round_number, limits, shape)
        timing = await self._engine.run(work)
        work.block.timing = timing_message(timing)
        return work.block

    def look_ahead(
        self,
        tokens: Sequence[int],
        round_number: int,
        plan: draft_pb2.LookAhead,
        grown: Callable[[], None],
    ) -> None:
        """Begins to draft for what may become of the last block; see `base.DraftSequence`."""
        self._base = None
        if not (self._ahead.is_possible and plan.max_branches and plan.limits.max_tokens):
            return
        history = History(())
        if self._chain.reads_text:
            history = self._history.fork(len(self._history.generated))
        base = Base(
            round=round_number,
            position=len(tokens),
            last=tokens[-1],
            drawn=self._drawn,
            history=history,
            prompt_length=self._spec.prompt_length,
            plan=plan,
            grown=grown,
        )
        self._base = base
        self._engine.call(lambda: self._ahead.begin(base))

    def ahead(self) -> Sequence[Ahead]:
        branches = [branch for branch in tuple(self._ahead.branches.values()) if branch.base is self._base]
        return sorted(branches, key=lambda branch: -branch.probability)

    def freeze_ahead(self) -> None:
        self._engine.call(self._ahead.freeze)

    def foreseen(self, position: int, token: int) -> int | None:
        branch = self._foreseen(position, token)
        return None if branch is None else branch.sent

    def take(self, position: int, token: int, used: int, tokens: Sequence[int]) -> list[int]:
        branch = self._foreseen(position, token)
        if branch is None:
            raise ValueError("no such block was sent")
        self._drawn = branch.drawn[:used]
        self._rows, self._before = [each.full_row for each in self._drawn], tokens
        start = self._spec.prompt_length
        self._history.become(tokens[start:], position - start)
        self._history.extend(each.token_id for each in self._drawn)
        self._base = None
        self._engine.call(lambda: self._ahead.take((position, token), used))
        return [each.token_id for each in self._drawn]

    def _foreseen(self, position: int, token: int) -> Branch | None:
        branch = self._ahead.branches.get((position, token))
        return None if branch is None or branch.base is not self._base or branch.sent is None else branch

    async def full_rows(self, indices: Sequence[int]) -> list[Tensor]:
        if not self._spec.max_entries or is_sampled(self._spec.verification):
            raise no_rows()
        if not self._rows:
            raise TandemError.unexpected_message("a tree keeps no full rows")
        rows = [self._rows[index] for index in indices]
        if any(row is None for row in rows):
            self._rows = await self._rows_again()
            rows = [self._rows[index] for index in indices]
        found, sayable = [row for row in rows if row is not None], self._voice.sayable
        return found if sayable is None else [sayable.spread(row, self._vocabulary_size) for row in found]

    async def _rows_again(self) -> list[Tensor | None]:
        before = len(self._before) - self._spec.prompt_length
        history = self._history.fork(before) if self._chain.reads_text else self._history
        candidates = [each.token_id for each in self._drawn]
        voice = replace(self._voice, history=history)
        work = RowsAgain(self._sequence, self._before, candidates, voice)
        await self._engine.run(work)
        return list(work.found)

    def told(self, tokens: Sequence[int], laws: Sequence[CompressedRow]) -> None:
        """Learns nothing from it."""

    async def close(self) -> None:
        self._prefill.cancel()
        await self._engine.release(self._sequence)


class Prefill(SingleWork):
    """Feeds tokens without asking for logits."""

    def __init__(self, sequence: runner.Sequence, tokens: Sequence[int]) -> None:
        self.sequence = sequence
        self._tokens: Sequence[int] | None = tokens

    def next_block(self) -> tuple[Sequence[int], int] | None:
        tokens, self._tokens = self._tokens, None
        return None if tokens is None else (tokens, 0)

    def receive(self, logits: Tensor) -> None:
        """Nothing was asked for."""


class _Drafting:
    """One block in the making; runs on the engine's thread."""

    def __init__(
        self,
        owner: ModelSequence,
        tokens: Sequence[int],
        cached: int,
        round_number: int,
        limits: draft_pb2.DraftLimits,
        *,
        foresees: bool = False,
    ) -> None:
        self.sequence = owner._sequence
        self.growth = Growth(owner._voice, len(tokens), round_number, limits, foresees=foresees)
        self._owner = owner
        self._tokens = tokens
        self._cached = cached
        self._limits = limits
        self._feed: Sequence[int] | None = None
        self._started = False

    @property
    def block(self) -> Candidates:
        stop = self.growth.stop
        return candidates(self.growth.drawn, draft_pb2.DRAFT_STOP_MAX_TOKENS if stop is None else stop)

    def next_block(self) -> tuple[Sequence[int], int] | None:
        if not self._started:
            self._started = True
            return self._first_block()
        feed, self._feed = self._feed, None
        return None if feed is None else (feed, 1)

    def _first_block(self) -> tuple[Sequence[int], int] | None:
        self.sequence.keep_path(self._tokens)
        ready = self._settle()
        if self._limits.max_tokens == 0:  # only takes the prefix in; its last token waits for the next round
            missing = self._tokens[self.sequence.length :]
            return (missing[:-1], 0) if len(missing) > 1 else None
        self.growth.take_all(ready)
        self._owner._rows += [each.full_row for each in self.growth.drawn]
        self._owner._ahead.counts.taken += len(self.growth.drawn)
        if self.growth.stop is not None:
            self._owner._ahead.surplus = ready[len(self.growth.drawn) :]
            return None
        text = [each.token_id for each in self.growth.drawn]
        self.sequence.truncate(min(self.sequence.length, len(self._tokens) + len(text) - 1))
        return [*self._tokens[self.sequence.length :], *text[max(0, self.sequence.length - len(self._tokens)) :]], 1

    def _settle(self) -> Sequence[Drawn]:
        """Goes on with what was drafted ahead for what has come true. Returns what was drawn there for this block."""
        ahead, cached = self._owner._ahead, self._cached
        key = (cached, self._tokens[cached]) if len(self._tokens) == cached + 1 else None
        found = ahead.settle(key)
        if found is None:
            self.sequence.truncate(min(self.sequence.length, cached, len(self._tokens) - 1))
            return ()
        if is_sampled(self._owner._spec.verification) and found.attempt != self.growth.attempt:
            return ()  # of another round, that nobody has asked for
        return found.all_drawn

    @classmethod
    def receive_all(cls, works: Sequence[_Drafting], logits: Sequence[Tensor]) -> list[Exception | None]:
        """Draws for all; a work that asked for no logits has nothing to draw."""
        return receive_grown(works, logits)

    def take(self, drawn: Drawn) -> None:
        token = self.growth.take(drawn)
        if self.growth.refused is drawn:
            self._owner._ahead.surplus = [drawn]
        else:
            self._owner._rows.append(drawn.full_row)
        if token is not None:
            self._feed = [token]
