"""What the target said after the last few tokens, on average: the table of STAND (arXiv 2506.04708, section 3)."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

#: Tokens of a context, longest first: that is the order in which they are looked up.
ORDERS = (4, 3, 2)
#: Tokens that are kept of a distribution.
WIDTH = 10


@dataclass(slots=True)
class _Mean:
    """Of `count` distributions. shares: of the tokens, not normalised: what was cut off is missing."""

    count: int = 0
    token_ids: array[int] = field(default_factory=lambda: array("I"))
    shares: array[float] = field(default_factory=lambda: array("d"))

    def add(self, law: Iterable[tuple[int, float]]) -> None:
        """The mean of k distributions becomes that of k + 1: k / (k + 1) of the old one, 1 / (k + 1) of the new one;
        the likeliest ten of both stay."""
        weight = 1 / (self.count + 1)
        mean = {token: share * (1 - weight) for token, share in zip(self.token_ids, self.shares, strict=True)}
        for token, share in law:
            mean[token] = mean.get(token, 0.0) + share * weight
        kept = sorted(mean.items(), key=lambda entry: (-entry[1], entry[0]))[:WIDTH]
        self.token_ids = array("I", [token for token, _ in kept])
        self.shares = array("d", [share for _, share in kept])
        self.count += 1


class NgramTable:
    """From the last 4, 3 or 2 tokens to the running mean of the target's next-token probabilities, ten of them."""

    def __init__(self, most: int) -> None:
        """most: contexts that are kept, of all lengths; about half a kilobyte each. The one that was learnt from the
        longest ago makes room."""
        self._most = most
        self._means: OrderedDict[tuple[int, ...], _Mean] = OrderedDict()

    def __len__(self) -> int:
        return len(self._means)

    def learn(self, before: Sequence[int], law: Sequence[tuple[int, float]]) -> None:
        """before: the text, of which the last tokens count. law: tokens with their probabilities, likeliest first, of
        which the first ten count."""
        law = law[:WIDTH]
        for size in ORDERS:
            if len(before) < size:
                continue
            context = tuple(before[len(before) - size :])
            mean = self._means.setdefault(context, _Mean())
            mean.add(law)
            self._means.move_to_end(context)
            if len(self._means) > self._most:
                self._means.popitem(last=False)

    def following(self, text: Sequence[int]) -> list[tuple[int, float]] | None:
        """Tokens that may follow, likeliest first, with their mean probabilities, which add up to 1 or less; after the
        longest context that is known, None where none is."""
        for size in ORDERS:
            if len(text) >= size and (mean := self._means.get(tuple(text[len(text) - size :]))) is not None:
                return list(zip(mean.token_ids, mean.shares, strict=True))
        return None
