"""A draft model: one forward pass per candidate, shared with the other sequences of the service."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from draft_service.drafters.base import Candidates, DraftSequence, SequenceSpec, limit_after, no_rows
from tandem.distributions import CompressedRow, compress, entropy, law, truncate_law
from tandem.gumbel import gumbel_argmax
from tandem.inference import runner
from tandem.inference.engine import Engine
from tandem.inference.work import SingleWork
from tandem.noise import Purpose
from tandem.sampling import History, SamplingChain, draw
from tandem.v1 import draft_pb2, model_pb2, sampling_pb2
from tandem.wire import timing_message

_SAMPLED_RULES = (sampling_pb2.VERIFICATION_RULE_RATIO, sampling_pb2.VERIFICATION_RULE_BLOCK)


class ModelDrafter:
    """Drafts with a language model."""

    def __init__(self, engine: Engine, info: model_pb2.ModelInfo) -> None:
        self._engine = engine
        self.info = info

    async def start(self) -> None:
        self._engine.start()

    async def open(self, spec: SequenceSpec) -> DraftSequence:
        return ModelSequence(self._engine, await self._engine.open(), spec, self.info)

    def load(self) -> model_pb2.Load:
        load = self._engine.load()
        return model_pb2.Load(
            sessions=load.sequences, waiting_blocks=load.waiting, cache_bytes=load.cache_bytes
        )

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
        self._chain = SamplingChain(spec.sampling, info.vocabulary_size)
        self._history = History(spec.prompt)
        self._rows: list[Tensor] = []
        self._prefill = asyncio.ensure_future(self._process_prompt())

    async def _process_prompt(self) -> None:
        # The last token waits for the first round, which needs its logits.
        prompt = self._spec.prompt[:-1]
        if prompt and len(prompt) < self._context_length:
            await self._engine.run(_Prefill(self._sequence, prompt))

    async def draft(
        self, tokens: Sequence[int], cached: int, round_number: int, limits: draft_pb2.DraftLimits
    ) -> Candidates:
        await self._prefill
        self._rows = []
        if len(tokens) >= self._context_length:
            return Candidates(stop=draft_pb2.DRAFT_STOP_CONTEXT)
        start = len(self._spec.prompt)
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


class _Drafting(SingleWork):
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
        self._joint = 0.0  # log of the product of q(x)
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

    def receive(self, logits: Tensor) -> None:
        if not len(logits):
            return
        spec, block, owner = self._owner._spec, self.block, self._owner
        log_p = owner._chain.log_probs(logits, owner._history)[0]
        position = len(self._tokens) + len(block.token_ids)
        token, log_probability, h, row = self._draw(log_p, position)
        limits = self._limits
        ceiling = limits.max_entropy_before if limits.HasField("max_entropy_before") else math.inf
        if h > ceiling and len(block.token_ids) >= limits.min_tokens:
            block.stop = draft_pb2.DRAFT_STOP_ENTROPY_BEFORE
            return
        block.token_ids.append(token)
        block.log_probabilities.append(log_probability)
        block.entropies.append(h)
        if row is not None:
            block.rows.append(row)
            if spec.verification not in _SAMPLED_RULES:  # those have no tail: nobody asks for more
                owner._rows.append(log_p)
        owner._history.append(token)
        self._joint += log_probability
        stop = self._stop_after(token, h, log_probability, position)
        if stop is None:
            self._feed = [token]
        else:
            block.stop = stop

    def _stop_after(
        self, token: int, h: float, log_probability: float, position: int
    ) -> draft_pb2.DraftStop.ValueType | None:
        drafted = len(self.block.token_ids)
        if token in self._owner._spec.stop_token_ids:
            return draft_pb2.DRAFT_STOP_END_TOKEN
        reached = limit_after(self._limits, drafted, h, math.exp(log_probability), math.exp(self._joint))
        if reached is not None:
            return reached
        if drafted >= self._limits.max_tokens:
            return draft_pb2.DRAFT_STOP_MAX_TOKENS
        if position + 1 >= self._owner._context_length:
            return draft_pb2.DRAFT_STOP_CONTEXT
        return None

    def _draw(self, log_p: Tensor, position: int) -> tuple[int, float, float, CompressedRow | None]:
        """Token, log q(x), H(q) and what is sent of q, for log_p [V] after the sampling chain."""
        spec = self._owner._spec
        if spec.verification in _SAMPLED_RULES:
            # Drawn from exactly the numbers that are sent, so the test at the target stays exact.
            drawn_from = truncate_law(log_p, spec.max_entries)
            token_ids, q = law(drawn_from)
            u = spec.noise.uniform(Purpose.DRAFT, position, self._round)
            index = draw(q, u)
            log_q = q.log()
            h = float(-torch.where(q > 0, q * log_q, q).sum())
            return int(token_ids[index]), float(log_q[index]), h, drawn_from
        if spec.verification == sampling_pb2.VERIFICATION_RULE_COUPLED:
            token = gumbel_argmax(log_p, spec.noise, position)
        else:
            token = int(log_p.argmax())
        row = compress(log_p, spec.max_entries, spec.mass) if spec.max_entries else None
        return token, float(log_p[token]), float(entropy(log_p)), row
