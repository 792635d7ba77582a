"""The same texts in front of what is measured, on both sides."""

from __future__ import annotations

from collections.abc import Sequence

from bench.engine.figures import CONTEXTS
from bench.engine.works import Prompt
from tandem.inference.engine import Engine
from tandem.inference.sequence import Sequence as EngineSequence

#: What contexts have beyond a round number. They then end in the middle of a page of the cache, so that a block of
#: five neither takes a page nor fills one, as most do not, and no step pays for one that the cut after it gives back.
INTO_PAGE = 8
LONGEST = max(CONTEXTS) + INTO_PAGE


class Contexts:
    """Texts whose first tokens are run when a length is asked for, once. Sequences stay open.

    different: texts that transformers runs; its other rows repeat them, which takes the same time.
    """

    def __init__(self, engine: Engine, texts: Sequence[list[int]], different: int) -> None:
        self.different = min(different, len(texts))
        self._engine = engine
        self._texts = texts
        self._sequences: list[EngineSequence] = []
        self._lengths: list[int] = []  # of which each sequence still holds its text

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

    def peer_texts(self, count: int) -> list[list[int]]:
        """Of so many rows of transformers' batch."""
        return [self._texts[index % self.different] for index in range(count)]
