"""Agreement against data: what more of it would bring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Shares of the data that a curve is made of, besides all of it.
SHARES = (1 / 8, 1 / 4, 1 / 2)
FIGURES = ("greedy_agreement", "one_minus_tv")


@dataclass(frozen=True, slots=True)
class Fit:
    """figure = a + b ln(tokens), by least squares. tokens: the most that there were. ten_times: what the line says of
    ten times as many, 1 at most."""

    a: float
    b: float
    tokens: int
    ten_times: float

    def at(self, tokens: float) -> float:
        return self.a + self.b * math.log(tokens)


def fit(curve: Sequence[dict[str, Any]], figure: str) -> Fit | None:
    """curve: points with `tokens`, distinct ones to learn from, and the figure. None for fewer than two."""
    tokens = [point["tokens"] for point in curve]
    if len(set(tokens)) < 2:
        return None
    b, a = np.polyfit(np.log(tokens), [point[figure] for point in curve], 1)
    ten_times = a + b * math.log(10 * max(tokens))
    return Fit(round(float(a), 4), round(float(b), 4), max(tokens), round(min(float(ten_times), 1.0), 4))
