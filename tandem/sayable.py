"""Some tokens of a vocabulary: those that a draft with a cut output layer can say.

Between the logits and what is sent, such a draft is computed with in rows of these tokens alone, a column for each. All
others have probability 0, so nothing is lost, and every step over a row takes a share of the time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_LANE = 4  # tokens whose noise comes from one lane, see `gumbel`


@dataclass(frozen=True, slots=True, eq=False)
class Sayable:
    """token_ids: int64 [C], rising, at least one. lanes: int64 [L], of the noise that these tokens need. words: int64
    [C], the place of each token's word among those of `lanes`. All on one device."""

    token_ids: Tensor
    lanes: Tensor
    words: Tensor

    @classmethod
    def of(cls, token_ids: Tensor) -> Sayable:
        """token_ids: [C] of any integer type, rising."""
        token_ids = token_ids.long()
        lanes, place = torch.unique_consecutive(token_ids // _LANE, return_inverse=True)
        return cls(token_ids, lanes, place * _LANE + token_ids % _LANE)

    def below(self, vocabulary_size: int) -> Sayable:
        """Those of a smaller vocabulary. Raises ValueError where there are none."""
        count = int(torch.count_nonzero(self.token_ids < vocabulary_size))
        if not count:
            raise ValueError(f"none of the tokens that it can say is below {vocabulary_size}")
        return self if count == len(self.token_ids) else Sayable.of(self.token_ids[:count])

    def spread(self, rows: Tensor, vocabulary_size: int) -> Tensor:
        """Logits or log-probabilities [..., C] -> [..., vocabulary_size], -infinity for what cannot be said."""
        whole = rows.new_full((*rows.shape[:-1], vocabulary_size), -math.inf)
        return whole.index_copy_(-1, self.token_ids, rows)

    def ids(self, places: Tensor) -> Tensor:
        """Token ids of columns: int64 of the same shape; -1, which stands for none, stays."""
        return torch.where(places < 0, places, self.token_ids[places])
