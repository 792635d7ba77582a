"""Several drafters behind one another: the first one is asked, the next one where it is silent.

A block is one part's own, with the law that this part drew it from, so every exact rule stays exact: which part is
asked depends on the committed text and on what the parts have learnt, never on a candidate. A part is silent where it
has no proposal for the next token; that a limit ends a block, also before its first candidate, is no silence.

Nothing is drafted ahead: which part would be asked after an outcome is known only once the outcome is, and a block that
another one had drafted would make a seed's text depend on the time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AsyncExitStack

from torch import Tensor

from draft_service.drafters.base import Candidates, Counts, Drafter, DraftSequence, SequenceSpec, TakesFeatures, no_rows
from draft_service.drafters.no_ahead import NothingAhead
from tandem.distributions import CompressedRow
from tandem.inference.engine import EngineLoad
from tandem.inference.observer import EngineObserver
from tandem.v1 import draft_pb2, model_pb2


class CombinedDrafter:
    """Two drafters or more, of which one at most has a vocabulary."""

    def __init__(self, parts: Sequence[Drafter]) -> None:
        """Raises ValueError for several parts with a vocabulary."""
        models = [part for part in parts if part.info.vocabulary_size]
        if len(models) > 1:
            raise ValueError("only one of the drafters may be a model")
        self._parts = tuple(parts)
        self._main = models[0] if models else self._parts[0]
        self.info = model_pb2.ModelInfo()
        self.info.CopyFrom(self._main.info)
        self.info.model_id = "+".join(part.info.model_id for part in parts)
        self.info.trees = False  # a part that copies has one candidate for a place
        self.counts = Counts()
        self.target_entries = max(part.target_entries for part in parts)

    async def start(self) -> None:
        for part in self._parts:
            await part.start()

    async def open(self, spec: SequenceSpec) -> DraftSequence:
        async with AsyncExitStack() as opened:
            sequences = []
            for part in self._parts:
                sequences.append(await part.open(spec))
                opened.push_async_callback(sequences[-1].close)
            opened.pop_all()
        wants = [part.target_entries > 0 for part in self._parts]
        return CombinedSequence(sequences, wants)

    def load(self) -> EngineLoad:
        """That of the part with weights, where there is one: the others take next to nothing."""
        return self._main.load()

    def observe(self, observer: EngineObserver) -> None:
        for part in self._parts:
            part.observe(observer)

    async def close(self) -> None:
        for part in self._parts:
            await part.close()


class CombinedSequence(NothingAhead):
    """One text, of which each part keeps what it needs."""

    def __init__(self, parts: Sequence[DraftSequence], wants: Sequence[bool]) -> None:
        """wants: for each part, whether it learns from the target's distributions."""
        self._parts = parts
        self._wants = wants
        # How many leading tokens each part's cache may still hold: all that was there when it was asked last, less what
        # has become of blocks since, its own among them.
        self._cached = [math.inf] * len(parts)
        self._drew: DraftSequence | None = None  # the last block

    async def draft(
        self,
        tokens: Sequence[int],
        cached: int,
        round_number: int,
        limits: draft_pb2.DraftLimits,
        *,
        foresees: bool = False,
    ) -> Candidates:
        self._cached = [min(before, cached) for before in self._cached]
        self._drew, block = None, Candidates(stop=draft_pb2.DRAFT_STOP_NO_PROPOSAL)
        for index, part in enumerate(self._parts):
            block = await part.draft(tokens, int(self._cached[index]), round_number, limits)
            self._cached[index] = math.inf
            if block.stop == draft_pb2.DRAFT_STOP_CONTEXT:
                block.stop = draft_pb2.DRAFT_STOP_NO_PROPOSAL  # the others' has no end
            is_silent = block.stop == draft_pb2.DRAFT_STOP_NO_PROPOSAL and not block.token_ids
            if limits.max_tokens and not is_silent:  # without any, all of them take the prefix in
                self._drew = part
                break
        return block

    def told(self, tokens: Sequence[int], laws: Sequence[CompressedRow]) -> None:
        for part, wants in zip(self._parts, self._wants, strict=True):
            if wants:
                part.told(tokens, laws)

    def fed(self, tokens: Sequence[int], features: Tensor) -> None:
        for part in self._parts:
            if isinstance(part, TakesFeatures):
                part.fed(tokens, features)

    async def full_rows(self, indices: Sequence[int]) -> list[Tensor]:
        if self._drew is None:
            raise no_rows()
        return await self._drew.full_rows(indices)

    async def close(self) -> None:
        async with AsyncExitStack() as closing:
            for part in self._parts:
                closing.push_async_callback(part.close)
