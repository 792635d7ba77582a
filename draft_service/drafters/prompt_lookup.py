"""Prompt look-up: copies what followed the last tokens where they occurred last. No weights, no compute.

The idea is Saxena's prompt lookup decoding (2023), transformers' `prompt_lookup_num_tokens`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from draft_service.drafters.base import DraftSequence, SequenceSpec
from draft_service.drafters.drawing import Drawn
from draft_service.drafters.reading import ReadingDrafter, ReadingSequence

#: Tokens of the longest run that is looked for.
LONGEST = 3


class PromptLookupDrafter(ReadingDrafter):
    """Drafts from the text itself; works with any target."""

    def __init__(self, least: int = 1) -> None:
        """least: tokens that have to be found again, 1 to 3; it is silent where fewer are."""
        super().__init__("prompt-lookup")
        self._least = least

    def _sequence(self, spec: SequenceSpec) -> DraftSequence:
        return PromptLookupSequence(self, spec, self._least)


class PromptLookupSequence(ReadingSequence):
    """Keeps, for every run of 1 to 3 tokens, where it ended last."""

    def __init__(self, owner: ReadingDrafter, spec: SequenceSpec, least: int = 1) -> None:
        super().__init__(owner, spec)
        self._least = least
        self._ends: dict[tuple[int, ...], int] = {}  # of runs that something follows

    def _take_in(self, tokens: Sequence[int], read: int) -> None:
        for end in range(max(read, 1), len(tokens)):
            for size in range(self._least, min(LONGEST, end) + 1):
                self._ends[tuple(tokens[end - size : end])] = end

    def _forget(self) -> None:
        self._ends.clear()

    def _propose(self, tokens: Sequence[int], round_number: int, most: int) -> Iterator[Drawn]:
        for size in range(min(LONGEST, len(tokens) - 1), self._least - 1, -1):
            end = self._ends.get(tuple(tokens[-size:]))
            if end is not None:
                yield from map(self.copied, tokens[end : end + most])
                return
