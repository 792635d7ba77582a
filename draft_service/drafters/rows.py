"""Full rows of a block that was drafted ahead, computed when they are asked for.

Such a block is one of many, most of which nobody ever takes: to keep a row as long as the vocabulary for each candidate
of each would fill the device.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tandem.inference.runner import Sequence as Cached
from tandem.inference.work import SingleWork
from tandem.sampling import History, SamplingChain


class RowsAgain(SingleWork):
    """found: log q [V] of each candidate, fp32."""

    def __init__(
        self, sequence: Cached, tokens: Sequence[int], candidates: Sequence[int], chain: SamplingChain, history: History
    ) -> None:
        """tokens: all before the block. history: theirs."""
        self.sequence = sequence
        self.found: list[Tensor] = []
        self._text = [*tokens, *candidates[:-1]]
        self._candidates = candidates
        self._chain = chain
        self._history = history
        self._started = False

    def next_block(self) -> tuple[Sequence[int], int] | None:
        if self._started:
            return None
        self._started = True
        self.sequence.truncate(min(self.sequence.length, len(self._text) - len(self._candidates)))
        return self._text[self.sequence.length :], len(self._candidates)

    def receive(self, logits: Tensor) -> None:
        self.found = list(self._chain.log_probs(logits, self._history, self._candidates[:-1]))
