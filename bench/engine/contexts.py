"""The same texts in front of what is measured, in the cache of an engine and in that of transformers."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import DynamicCache

from bench.engine.figures import CONTEXTS
from bench.engine.peer import Peer, PeerBatch
from bench.engine.works import Prompt
from tandem.inference.engine import Engine
from tandem.inference.sequence import Sequence as EngineSequence

#: What contexts have beyond a round number. They then end in the middle of a page of the cache, so that a block of
#: five neither takes a page nor fills one, as most do not, and no step pays for one that the cut after it gives back.
INTO_PAGE = 8
LONGEST = max(CONTEXTS) + INTO_PAGE


class Contexts:
    """Texts whose first tokens are run when a length is asked for, once on each side. Sequences stay open."""

    def __init__(self, engine: Engine, peer: Peer, texts: Sequence[list[int]], different: int) -> None:
        """different: texts that transformers runs; its other rows repeat them, which takes the same time."""
        self.different = min(different, len(texts))
        self._engine = engine
        self._peer = peer
        self._texts = texts
        self._sequences: list[EngineSequence] = []
        self._lengths: list[int] = []  # of which each sequence still holds its text
        self._caches: dict[int, DynamicCache] = {}

    async def sequences(self, lengths: Sequence[int]) -> list[EngineSequence]:
        """The first ones, each holding so many tokens of its text; what follows them may be anything, and whoever
        takes them may only cut what follows."""
        while len(self._sequences) < len(lengths):
            self._sequences.append(await self._engine.open())
            self._lengths.append(0)
        for index, length in enumerate(lengths):
            sequence, held = self._sequences[index], self._lengths[index]
            if held < length:
                await self._engine.run(Prompt(sequence, self._texts[index][held:length], behind=held))
            self._lengths[index] = length
        return self._sequences[: len(lengths)]

    def batch(self, lengths: Sequence[int], room: int) -> PeerBatch:
        """The same for transformers. room: most tokens that each may get."""
        caches = [self._cache(index % self.different, max(lengths)) for index in range(len(lengths))]
        return PeerBatch(self._peer, caches, lengths, room)

    def _cache(self, index: int, length: int) -> DynamicCache:
        cache = self._caches.get(index)
        if cache is None or cache.get_seq_length() < length:
            cache = self._caches[index] = self._peer.prefill(self._texts[index][:length])
        return cache
