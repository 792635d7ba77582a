"""A draft model of another family than the target's: it reads and draws in tokens of its own, and is asked and answers
in the target's.

What is committed is read as a `Transcript` has it: it always ends where the text ends, and no token of the draft spans
beyond. Where the draft would rather write the last word and what follows it as one token, that token cannot be said any
more, and it goes on with a part [ours]; the next round reads both parts as one. A candidate is one token of both
vocabularies, of the same bytes, so candidates follow each other as the draft drew them.

None of this touches losslessness: whatever the draft reads, q is what a candidate was drawn from, and it depends on
nothing that comes after the candidate. It only decides how often candidates are accepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from draft_service.drafters.base import Candidates, DraftSequence, SequenceSpec, no_rows
from draft_service.drafters.drawing import Drawn, is_sampled
from draft_service.drafters.growth import Growth, Voice, candidates, receive_grown
from draft_service.drafters.model import ModelDrafter, Prefill
from draft_service.drafters.no_ahead import NothingAhead
from draft_service.drafters.translation import Translation
from tandem.distributions import CompressedRow
from tandem.inference import runner
from tandem.inference.engine import Engine
from tandem.sampling import History, SamplingChain
from tandem.transcripts import Transcript
from tandem.v1 import draft_pb2, model_pb2
from tandem.wire import timing_message

# Tokens that are read while others wait: some milliseconds.
_MOST_AT_ONCE = 1024


class TranslatingDrafter(ModelDrafter):
    """Drafts with a language model whose tokenizer is not the target's."""

    def __init__(self, engine: Engine, info: model_pb2.ModelInfo, translation: Translation) -> None:
        """info: with the tokenizer and the vocabulary of the target."""
        super().__init__(engine, info, sayable=translation.sayable)
        self._translation = translation

    async def open(self, spec: SequenceSpec) -> DraftSequence:
        transcript = self._translation.transcript()
        await _read(transcript, spec.tokens, 0)
        tokens = max(0, len(transcript.ids) - 1)
        sequence = await self._engine.open(spec.priority, tokens=tokens, within=spec.within)
        return TranslatedSequence(self._engine, sequence, spec, self.info, self._translation, transcript)


class TranslatedSequence(NothingAhead):
    """One sequence and its cache, which holds tokens of the draft's own. It neither looks ahead nor makes trees
    [ours]."""

    def __init__(
        self,
        engine: Engine,
        sequence: runner.Sequence,
        spec: SequenceSpec,
        info: model_pb2.ModelInfo,
        translation: Translation,
        transcript: Transcript,
    ) -> None:
        """transcript: of the prompt."""
        self._engine = engine
        self._sequence = sequence
        self._spec = spec
        self._context_length = info.context_length
        self._vocabulary_size = info.vocabulary_size
        self._translation = translation
        self._transcript = transcript
        self._same = 0  # first ids of the transcript that are those which were fed, as far as is known
        self._chain = SamplingChain(spec.sampling, info.vocabulary_size, spec.constraint)
        self._history = History(spec.tokens[: spec.prompt_length])
        self._voice = Voice(spec, self._chain, self._history, info.context_length, translation.sayable)
        self._drawn: Sequence[Drawn] = ()  # the last block
        self._prefill = asyncio.ensure_future(self._process_prompt())

    async def _process_prompt(self) -> None:
        # The last token waits for the first round, which needs its logits.
        prompt = self._transcript.ids[:-1]
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
        self._drawn = ()
        self._same = min(self._same, await _read(self._transcript, tokens, cached))
        ids = self._transcript.ids
        if not ids:  # special tokens alone
            return Candidates(stop=draft_pb2.DRAFT_STOP_NO_PROPOSAL)
        if len(ids) >= self._context_length:
            return Candidates(stop=draft_pb2.DRAFT_STOP_CONTEXT)
        start = self._spec.prompt_length
        self._history.become(tokens[start:], cached - start)
        # Where a block ends is counted in the target's tokens, of which each candidate is one.
        voice = replace(self._voice, context_length=self._context_length - len(ids) + len(tokens))
        growth = Growth(voice, len(tokens), round_number, limits, foresees=False)
        work = _Drafting(self._sequence, growth, self._translation, ids, self._same, limits.max_tokens)
        timing = await self._engine.run(work)
        self._same = len(ids)
        self._drawn = growth.drawn
        block = candidates(growth.drawn, draft_pb2.DRAFT_STOP_MAX_TOKENS if growth.stop is None else growth.stop)
        block.timing = timing_message(timing)
        return block

    def told(self, tokens: Sequence[int], laws: Sequence[CompressedRow]) -> None:
        """Learns nothing from it."""

    async def full_rows(self, indices: Sequence[int]) -> list[Tensor]:
        if not self._spec.max_entries or is_sampled(self._spec.verification):
            raise no_rows()
        rows = [self._drawn[index].full_row for index in indices]
        return [self._translation.sayable.spread(row, self._vocabulary_size) for row in rows if row is not None]

    async def close(self) -> None:
        self._prefill.cancel()
        await self._engine.release(self._sequence)


class _Drafting:
    """One block in the making; runs on the engine's thread."""

    def __init__(
        self,
        sequence: runner.Sequence,
        growth: Growth,
        translation: Translation,
        ids: Sequence[int],
        same: int,
        max_tokens: int,
    ) -> None:
        """ids: all that is committed, in the draft's tokens, at least one. same: how many of them were fed before."""
        self.sequence = sequence
        self.growth = growth
        self._translation = translation
        self._ids = ids
        self._same = same
        self._max_tokens = max_tokens
        self._feed: Sequence[int] | None = None
        self._started = False

    def next_block(self) -> tuple[Sequence[int], int] | None:
        if not self._started:
            self._started = True
            return self._first_block()
        feed, self._feed = self._feed, None
        return None if feed is None else (feed, 1)

    def _first_block(self) -> tuple[Sequence[int], int] | None:
        fed, ids = self.sequence.tokens, self._ids
        most = min(len(fed), len(ids) - 1)
        same = min(self._same, most)
        while same < most and fed[same] == ids[same]:  # also candidates, where they are read as they were drawn
            same += 1
        self.sequence.truncate(same)
        if self._max_tokens == 0:  # only takes the text in; its last token waits for the next round
            return (ids[same:-1], 0) if same < len(ids) - 1 else None
        return ids[same:], 1

    @classmethod
    def receive_all(cls, works: Sequence[_Drafting], logits: Sequence[Tensor]) -> list[Exception | None]:
        """Draws for all; a work that asked for no logits has nothing to draw."""
        return receive_grown(works, [work._translation.logits(rows) for work, rows in zip(works, logits, strict=True)])

    def take(self, drawn: Drawn) -> None:
        token = self.growth.take(drawn)
        if token is not None:
            self._feed = [self._translation.own(token)]


async def _read(transcript: Transcript, tokens: Sequence[int], unchanged: int) -> int:
    """`Transcript.become`; others are served meanwhile where it takes long."""
    if len(tokens) - unchanged > _MOST_AT_ONCE:
        return await asyncio.to_thread(transcript.become, tokens, unchanged)
    return transcript.become(tokens, unchanged)
