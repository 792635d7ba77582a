"""Between the vocabulary of a target and that of a draft of another family: token-level intersection (Timor et al.,
arXiv 2502.05202, Algorithm 4).

The draft's logits of the tokens that both have become logits of the target's ids, all others -infinity, before the
sampling chain: bias, penalties, grammars, top-k, top-p and min-p mean at the draft what they mean at the target, and q
is a law over the target's ids, renormalised over what is left. Restricting logits and then taking the softmax is
restricting the distribution and renormalising it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tandem.sayable import Sayable
from tandem.transcripts import Reader, Transcript
from tandem.vocabularies import Intersection


class Translation:
    """For all sequences of a service. sayable: the target's tokens that the draft can say."""

    def __init__(self, shared: Intersection, reader: Reader, vocabulary_size: int, device: torch.device) -> None:
        """reader: of the target's tokens. vocabulary_size: the target's. Raises ValueError where nothing is shared."""
        if not len(shared):
            raise ValueError("the draft has no token of the target's")
        self.sayable = Sayable.of(torch.tensor(shared.target_ids, device=device))
        self._columns = torch.tensor(shared.draft_ids, device=device)
        self._own = dict(zip(shared.target_ids, shared.draft_ids, strict=True))
        self._reader = reader
        self._vocabulary_size = vocabulary_size

    def logits(self, rows: Tensor) -> Tensor:
        """Of the draft's tokens [n, V] to the target's [n, its vocabulary], -infinity for what is not shared."""
        return self.sayable.spread(rows.index_select(-1, self._columns), self._vocabulary_size)

    def own(self, token: int) -> int:
        """The draft's id of a shared token of the target's."""
        return self._own[token]

    def transcript(self) -> Transcript:
        """An empty text."""
        return Transcript(self._reader)
