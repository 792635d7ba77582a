"""Drafts from the prompt and the text so far: the longest end of the text that has been there before goes on as it did
then (SAM-Decoding, arXiv 2411.10666, its automaton of the text that is being made).

As in the paper's public code the first occurrence is taken, which has most behind it. Where that runs into the end of
the text it goes on with what has just been drafted, so that a loop stays one [ours].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from draft_service.drafters.automaton import SuffixAutomaton
from draft_service.drafters.base import DraftSequence, SequenceSpec
from draft_service.drafters.drawing import Drawn
from draft_service.drafters.reading import ReadingDrafter, ReadingSequence

# Tokens in one automaton; each takes some 400 bytes.
_MOST_TOKENS = 1 << 15


class SuffixDrafter(ReadingDrafter):
    """Works with any target."""

    def __init__(self, least: int = 1, most_tokens: int = _MOST_TOKENS) -> None:
        """least: tokens that have to be found again; it is silent where fewer are. most_tokens: of a text that are
        kept, at least 2; of a longer one the last ones, no fewer than half as many."""
        super().__init__("suffix")
        self._least = least
        self._most = most_tokens

    def _sequence(self, spec: SequenceSpec) -> DraftSequence:
        return SuffixSequence(self, spec, self._least, self._most)


class SuffixSequence(ReadingSequence):
    """One text and its automaton. Every token is put into it twice at most."""

    def __init__(self, owner: ReadingDrafter, spec: SequenceSpec, least: int, most_tokens: int) -> None:
        super().__init__(owner, spec)
        self._least = max(1, least)
        self._most = max(2, most_tokens)
        self._automaton = SuffixAutomaton()
        self._start = 0  # of the automaton's text in the whole

    def _take_in(self, tokens: Sequence[int], read: int) -> None:
        for index in range(read, len(tokens)):
            if len(self._automaton) == self._most:
                self._automaton, self._start = SuffixAutomaton(), index - self._most // 2
                for token in tokens[self._start : index]:
                    self._automaton.append(token)
            self._automaton.append(tokens[index])

    def _forget(self) -> None:
        self._automaton, self._start = SuffixAutomaton(), 0

    def _propose(self, tokens: Sequence[int], round_number: int, most: int) -> Iterator[Drawn]:
        found, end = self._automaton.longest()
        if found < self._least:
            return
        place, drafted = self._start + end, list[int]()
        while len(drafted) < most:
            behind = place - len(tokens)
            drafted.append(tokens[place] if behind < 0 else drafted[behind])
            place += 1
            yield self.copied(drafted[-1])
