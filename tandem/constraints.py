"""Which tokens a text may go on with, beyond what a model finds likely: part of the sampling chain."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from tandem.transfers import upload

if TYPE_CHECKING:
    from tandem.grammars import Matcher  # its library is only for those who have a grammar


class Constraint(Protocol):
    """Of one sequence.

    follows_one_text: whether it keeps a place in the text, so that it cannot be asked about several that go on
    differently.
    """

    follows_one_text: bool

    def forbid(self, scores: Tensor, text: Sequence[int], candidates: Sequence[int]) -> Tensor:
        """Scores [n, V] with -infinity for tokens that may not be there; row i follows `text` and `candidates[:i]`.
        `scores` is not changed. Raises ValueError where `text` itself may not be there."""
        ...


class NoEndBefore:
    """Some tokens may not be there before the text has `least` tokens."""

    follows_one_text = False

    def __init__(self, least: int, ends: Collection[int]) -> None:
        self._least = least
        self._ends = sorted(ends)

    def forbid(self, scores: Tensor, text: Sequence[int], candidates: Sequence[int]) -> Tensor:
        rows = min(len(scores), self._least - len(text))
        if rows <= 0 or not self._ends:
            return scores
        scores = scores.clone()
        scores[:rows, upload(self._ends, torch.long, scores.device)] = -math.inf
        return scores


class FollowsGrammar:
    """The text is what a grammar says."""

    follows_one_text = True

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher

    def forbid(self, scores: Tensor, text: Sequence[int], candidates: Sequence[int]) -> Tensor:
        masks = self._matcher.masks(text, candidates[: len(scores) - 1])
        scores = scores.clone()
        for row, mask in zip(scores, masks, strict=True):
            if mask is not None:
                allowed = torch.zeros(len(row), dtype=torch.bool)
                known = torch.from_numpy(mask[: len(row)])
                allowed[: len(known)] = known
                row.masked_fill_(~allowed.to(row.device), -math.inf)
        return scores
