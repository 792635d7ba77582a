"""How likely the draft's tokens are to be the target's: by entropy, and by rank where the first is not."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from bench.overlap.recording import Recording

_BINS = 12
# Of a bin, beside its own: weight of the mean.
_PRIOR = 4.0
_RANKS = 7


@dataclass(frozen=True, slots=True)
class Calibration:
    """entropies, acceptances: the curve's knots, linear between them. shares: how often the target's token was the
    draft's second, third and so on, where it was not the first."""

    entropies: Sequence[float]
    acceptances: Sequence[float]
    shares: Sequence[float]

    def acceptance(self, entropy: float) -> float:
        """In [0, 1]."""
        knots, values = self.entropies, self.acceptances
        above = bisect_right(knots, entropy)
        if above in (0, len(knots)):
            return values[max(0, above - 1)]
        low, high = knots[above - 1], knots[above]
        part = (entropy - low) / (high - low)
        return values[above - 1] + part * (values[above] - values[above - 1])


def calibrate(recording: Recording) -> Calibration:
    """From all that was recorded."""
    seen: list[tuple[float, bool]] = []
    ranks = [0] * _RANKS
    errors = 0
    for text in recording.texts:
        for kept, token in enumerate(text.tokens):
            row = text.rows[kept]
            seen.append((row.entropy, row.tokens[0] == token))
            if row.tokens[0] != token:
                errors += 1
                others = list(row.tokens[1 : 1 + _RANKS])
                if token in others:
                    ranks[others.index(token)] += 1
    seen.sort()
    mean = sum(agrees for _, agrees in seen) / len(seen)
    entropies, acceptances = list[float](), list[float]()
    for number in range(_BINS):
        part = seen[number * len(seen) // _BINS : (number + 1) * len(seen) // _BINS]
        middle = sum(h for h, _ in part) / len(part) if part else 0.0
        if part and (not entropies or middle > entropies[-1]):
            entropies.append(middle)
            acceptances.append((sum(agrees for _, agrees in part) + _PRIOR * mean) / (len(part) + _PRIOR))
    return Calibration(entropies, acceptances, [count / max(1, errors) for count in ranks])
