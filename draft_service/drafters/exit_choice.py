"""At which layer to leave, and how far to draft: DEL (arXiv 2504.05598), learnt from one text.

With L layers, a_l the share of tokens that layer l would have said right, and g candidates, each of which takes l
layers, the paper takes the (l, g) with the most tokens per layer:

    sum_{i=0..g} a_l^i / ((L - l) + (g + 1) l)

Counts of right and wrong tokens decay by .95 from look to look, in the paper from round to round: there every
verification shows all layers, here only now and then a pass is made through all of them (`early_exit`). Drafting ends
after a token with a confidence below the midpoint of the mean confidence of right and of wrong tokens. Silent points,
and what we do: the confidence is q(x), and its means are of the candidates that the layer itself drafted, decayed by
.95 a round; without one of either kind there is no threshold. At least one candidate is drafted: whether drafting pays
at all is for whoever knows what it costs. Of equals the lower layer and the shorter block is taken. All [ours].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_DECAY = 0.95
_MOST = 16


@dataclass(slots=True)
class _Mean:
    """Decayed sum and count."""

    total: float = 0.0
    count: float = 0.0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    def decay(self) -> None:
        self.total *= _DECAY
        self.count *= _DECAY

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0


class ExitChoice:
    """Of one text."""

    def __init__(self, exits: Sequence[int], depth: int) -> None:
        """exits: after how many of `depth` layers the model may be left, rising, at least one."""
        self._depth = depth
        self._right = {exit: _Mean() for exit in exits}
        self._sure = {exit: (_Mean(), _Mean()) for exit in exits}  # of right ones, of wrong ones

    def look(self, seen: Iterable[tuple[Sequence[int], int]]) -> None:
        """Learns from one look. seen: what each exit says at a place, in their order, and the token that came."""
        for mean in self._right.values():
            mean.decay()
        for said, token in seen:
            for mean, guess in zip(self._right.values(), said, strict=True):
                mean.add(guess == token)

    def judged(self, exit: int, kept: Iterable[float], rejected: float | None) -> None:
        """Learns from one block that was drafted at `exit`: q(x) of the candidates that were kept, and of the first
        that was rejected, None for none."""
        right, wrong = self._sure[exit]
        for mean in (right, wrong):
            mean.decay()
        for probability in kept:
            right.add(probability)
        if rejected is not None:
            wrong.add(rejected)

    def best(self) -> tuple[int, int]:
        """At which layer to leave, and how many candidates to draft."""
        choices = [(exit, length) for exit in self._right for length in range(1, _MOST + 1)]
        return max(choices, key=lambda choice: self._tokens_per_layer(*choice))

    def threshold(self, exit: int) -> float:
        """q(x) below which drafting at this layer ends; 0 for none."""
        right, wrong = self._sure[exit]
        return (right.mean + wrong.mean) / 2 if right.count and wrong.count else 0.0

    def _tokens_per_layer(self, exit: int, length: int) -> float:
        share = self._right[exit].mean
        tokens = sum(share**power for power in range(length + 1))
        return tokens / (self._depth - exit + (length + 1) * exit)
