"""A draft model: one forward pass per candidate, shared with the other sequences of the service."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from torch import Tensor

from draft_service.drafters.base import Candidates, DraftSequence, SequenceSpec, no_rows
from draft_service.drafters.drawing import Draw, Drawn, draw_many
from tandem.block_limits import Limiter
from tandem.inference import runner
from tandem.inference.engine import Engine, EngineLoad
from tandem.inference.observer import EngineObserver
from tandem.inference.work import SingleWork
from tandem.sampling import History, NotFiniteError, SamplingChain, log_probs_batch
from tandem.transfers import portions
from tandem.v1 import draft_pb2, model_pb2
from tandem.wire import timing_message


class ModelDrafter:
    """Drafts with a language model."""

    def __init__(self, engine: Engine, info: model_pb2.ModelInfo) -> None:
        self._engine = engine
        self.info = info

    async def start(self) -> None:
        self._engine.start()

    async def open(self, spec: SequenceSpec) -> DraftSequence:
        sequence = await self._engine.open(spec.priority, tokens=len(spec.tokens) - 1, within=spec.within)
        return ModelSequence(self._engine, sequence, spec, self.info)

    def load(self) -> EngineLoad:
        return self._engine.load()

    def observe(self, observer: EngineObserver) -> None:
        self._engine.attach(observer)

    async def close(self) -> None:
        await self._engine.close()


class ModelSequence:
    """One sequence and its cache. The prompt is processed at once, while the target does the same."""

    def __init__(
        self, engine: Engine, sequence: runner.Sequence, spec: SequenceSpec, info: model_pb2.ModelInfo
    ) -> None:
        self._engine = engine
        self._sequence = sequence
        self._spec = spec
        self._context_length = info.context_length
        self._chain = SamplingChain(spec.sampling, info.vocabulary_size, spec.constraint)
        self._history = History(spec.tokens[: spec.prompt_length])
        self._rows: list[Tensor] = []
        self._prefill = asyncio.ensure_future(self._process_prompt())

    async def _process_prompt(self) -> None:
        # The last token waits for the first round, which needs its logits.
        prompt = self._spec.tokens[:-1]
        if prompt and len(prompt) < self._context_length:
            await self._engine.run(_Prefill(self._sequence, prompt))

    async def draft(
        self, tokens: Sequence[int], cached: int, round_number: int, limits: draft_pb2.DraftLimits
    ) -> Candidates:
        await self._prefill
        self._rows = []
        if len(tokens) >= self._context_length:
            return Candidates(stop=draft_pb2.DRAFT_STOP_CONTEXT)
        start = self._spec.prompt_length
        self._history.become(tokens[start:], cached - start)
        work = _Drafting(self, tokens, min(cached, len(tokens) - 1), round_number, limits)
        timing = await self._engine.run(work)
        work.block.timing = timing_message(timing)
        return work.block

    def full_rows(self, indices: Sequence[int]) -> list[Tensor]:
        if not self._rows:
            raise no_rows()
        return [self._rows[index] for index in indices]

    async def close(self) -> None:
        self._prefill.cancel()
        await self._engine.release(self._sequence)


class _Prefill(SingleWork):
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
    ) -> None:
        self.sequence = owner._sequence
        self.block = Candidates()
        self._owner = owner
        self._tokens = tokens
        self._cached = cached
        self._round = round_number
        self._limits = limits
        self._limiter = Limiter(limits)
        self._feed: Sequence[int] | None = None
        self._started = False

    def next_block(self) -> tuple[Sequence[int], int] | None:
        if not self._started:
            self._started = True
            self.sequence.truncate(min(self.sequence.length, self._cached))
            missing = self._tokens[self.sequence.length :]
            if self._limits.max_tokens == 0:  # only takes the prefix in; its last token waits for the next round
                return (missing[:-1], 0) if len(missing) > 1 else None
            self._feed = missing
        feed, self._feed = self._feed, None
        return None if feed is None else (feed, 1)

    @classmethod
    def receive_all(cls, works: Sequence[_Drafting], logits: Sequence[Tensor]) -> list[Exception | None]:
        """Draws for all; a work that asked for no logits has nothing to draw."""
        drawing = [(work, rows) for work, rows in zip(works, logits, strict=True) if len(rows)]
        drawn: list[Drawn | NotFiniteError] = []
        for part in portions([rows for _, rows in drawing]):
            owners = [work._owner for work, _ in drawing[part]]
            chains, histories = [owner._chain for owner in owners], [owner._history for owner in owners]
            log_q = log_probs_batch(chains, [rows for _, rows in drawing[part]], histories, [()] * len(owners))
            drawn += draw_many([work._draw() for work, _ in drawing[part]], log_q)
        failed: dict[_Drafting, Exception] = {}
        for (work, _), result in zip(drawing, drawn, strict=True):
            if isinstance(result, Drawn):
                work._take(result)
            else:
                failed[work] = result
        return [failed.get(work) for work in works]

    def _draw(self) -> Draw:
        spec = self._owner._spec
        position = len(self._tokens) + len(self.block.token_ids)
        forbids = self._owner._chain.forbids
        return Draw(spec.verification, spec.noise, position, self._round, spec.max_entries, spec.mass, forbids)

    def _take(self, drawn: Drawn) -> None:
        """Adds a candidate, unless a limit ends the block before it."""
        block, owner = self.block, self._owner
        position = len(self._tokens) + len(block.token_ids)
        if self._limiter.refuses(drawn.entropy):
            block.stop = draft_pb2.DRAFT_STOP_ENTROPY_BEFORE
            return
        block.token_ids.append(drawn.token_id)
        block.log_probabilities.append(drawn.log_probability)
        block.entropies.append(drawn.entropy)
        if drawn.row is not None:
            block.rows.append(drawn.row)
        if drawn.full_row is not None:
            owner._rows.append(drawn.full_row)
        owner._history.append(drawn.token_id)
        stop = self._stop_after(drawn.token_id, drawn.entropy, drawn.log_probability, position)
        if stop is None:
            self._feed = [drawn.token_id]
        else:
            block.stop = stop

    def _stop_after(
        self, token: int, h: float, log_probability: float, position: int
    ) -> draft_pb2.DraftStop.ValueType | None:
        reached = self._limiter.after(h, log_probability)
        if token in self._owner._spec.stop_token_ids:
            return draft_pb2.DRAFT_STOP_END_TOKEN
        if reached is not None:
            return reached
        if len(self.block.token_ids) >= self._limits.max_tokens:
            return draft_pb2.DRAFT_STOP_MAX_TOKENS
        if position + 1 >= self._owner._context_length:
            return draft_pb2.DRAFT_STOP_CONTEXT
        return None
