"""Full rows of a block that was drafted ahead, computed when they are asked for.

Such a block is one of many, most of which nobody ever takes: to keep a row as long as the vocabulary for each candidate
of each would fill the device.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from draft_service.drafters.growth import Voice
from tandem.inference.runner import Sequence as Cached
from tandem.inference.work import SingleWork
from tandem.sampling import NotFiniteError, log_probs_batch, not_finite


class RowsAgain(SingleWork):
    """found: log q of each candidate as `Drawn.full_row`, fp32."""

    def __init__(self, sequence: Cached, tokens: Sequence[int], candidates: Sequence[int], voice: Voice) -> None:
        """tokens: all before the block. voice: of the text that they are."""
        self.sequence = sequence
        self.found: list[Tensor] = []
        self._text = [*tokens, *candidates[:-1]]
        self._candidates = candidates
        self._voice = voice
        self._started = False

    def next_block(self) -> tuple[Sequence[int], int] | None:
        if self._started:
            return None
        self._started = True
        self.sequence.truncate(min(self.sequence.length, len(self._text) - len(self._candidates)))
        return self._text[self.sequence.length :], len(self._candidates)

    def receive(self, logits: Tensor) -> None:
        voice = self._voice
        [log_q] = log_probs_batch([voice.chain], [logits], [voice.history], [self._candidates[:-1]], voice.sayable)
        if not_finite(log_q).any():
            raise NotFiniteError("logits are not finite, or the sampling parameters leave no token")
        self.found = list(log_q)
