"""STAND (arXiv 2506.04708): drafts from what the target itself has said after the same few tokens, with probabilities.

No model: the target's likeliest tokens come with each continuation, and their running means are q. The paper grows a
tree whose children are drawn by Gumbel top-k; a block is a line, so one child is drawn, which is a draw from q. It is
drawn by the noise that a draft model draws with, under every rule [ours]: under ratio rules from exactly the numbers
that are sent. The paper shares its table among the trajectories of a problem. Here each text has its own, because what
one caller's text makes likely would show in how fast another's is; a service may be told to share one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from draft_service.drafters.base import DraftSequence, SequenceSpec
from draft_service.drafters.drawing import Draw, Drawn, draw_many
from draft_service.drafters.ngrams import ORDERS, WIDTH, NgramTable
from draft_service.drafters.reading import ReadingDrafter, ReadingSequence
from tandem.distributions import CompressedRow, law
from tandem.sayable import Sayable

_CONTEXT = max(ORDERS)
# Contexts in a table: of one text, and of all where they share one.
_MOST, _MOST_SHARED = 1 << 15, 1 << 18


class StandDrafter(ReadingDrafter):
    """Works with any target."""

    def __init__(self, *, shares: bool = False) -> None:
        """shares: whether all texts learn from each other. Nothing of a text is sent to another caller, but how often
        candidates are accepted tells of what others have written."""
        super().__init__("stand", target_entries=WIDTH)
        self._shared = NgramTable(_MOST_SHARED) if shares else None

    def _sequence(self, spec: SequenceSpec) -> DraftSequence:
        table = NgramTable(_MOST) if self._shared is None else self._shared
        return StandSequence(self, spec, table)


class StandSequence(ReadingSequence):
    """One text. table: its own, or that of all."""

    def __init__(self, owner: ReadingDrafter, spec: SequenceSpec, table: NgramTable) -> None:
        super().__init__(owner, spec)
        self._table = table

    def _take_in(self, tokens: Sequence[int], read: int) -> None:
        """The text alone says nothing."""

    def told(self, tokens: Sequence[int], laws: Sequence[CompressedRow]) -> None:
        for position, row in enumerate(laws, len(tokens) - len(laws)):
            ids, probabilities = law(row)
            before = tokens[max(0, position - _CONTEXT) : position]
            self._table.learn(before, list(zip(ids.tolist(), probabilities.tolist(), strict=True)))

    def _propose(self, tokens: Sequence[int], round_number: int, most: int) -> Iterator[Drawn]:
        text = list(tokens[-_CONTEXT:])
        for position in range(len(tokens), len(tokens) + most):
            following = self._table.following(text)
            if following is None:
                return
            drawn = self._draw(following, position, round_number)
            text = [*text[1 - _CONTEXT :], drawn.token_id]
            yield drawn

    def _draw(self, following: Sequence[tuple[int, float]], position: int, attempt: int) -> Drawn:
        """following: not empty."""
        spec = self._spec
        # Cut to what may be sent, so that q has no tail: nobody could ask for the rest of it.
        kept = sorted(following[: spec.max_entries or WIDTH])
        total = math.fsum(share for _, share in kept)
        log_q = torch.tensor([[math.log(share / total) for _, share in kept]], dtype=torch.float32)
        wanted = Draw(
            spec.verification, spec.noise, position, attempt, spec.max_entries, 1.0, forbids=False, keeps_row=False
        )
        [drawn] = draw_many([wanted], [log_q], Sayable.of(torch.tensor([token for token, _ in kept])))
        if not isinstance(drawn, Drawn):
            raise drawn
        return drawn
