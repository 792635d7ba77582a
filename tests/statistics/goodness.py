"""The G-test: do counts come from a law? Every test that uses it is wrong with probability ERROR_RATE."""

from __future__ import annotations

import torch
from torch import Tensor

#: Chance that a right program fails a test (seeds are fixed, so it was drawn once, when the test was written).
ERROR_RATE = 1e-6
# The statistic follows chi-square well enough in the tail where every cell expects some tens of counts.
LEAST_EXPECTED = 50.0


def g_test(counts: Tensor, law: Tensor, least_expected: float = LEAST_EXPECTED) -> float:
    """The chance of counts at least as far from the law; 0 where something impossible was counted.

    counts, law: of one shape; the law sums to 1. Cells that expect fewer than `least_expected` counts are taken
    together.
    """
    counts, law = counts.flatten().to(torch.float64), law.flatten().to(torch.float64)
    if bool((counts[law == 0] > 0).any()):
        return 0.0
    expected = law * counts.sum()
    small = expected < least_expected
    counts = torch.cat([counts[~small], counts[small].sum().unsqueeze(0)])
    expected = torch.cat([expected[~small], expected[small].sum().unsqueeze(0)])
    counts, expected = counts[expected > 0], expected[expected > 0]
    statistic = 2 * torch.special.xlogy(counts, counts / expected).sum()
    freedom = torch.tensor((len(counts) - 1) / 2, dtype=torch.float64)
    # The chi-square distribution's tail is the regularised upper incomplete gamma function.
    return float(torch.special.gammaincc(freedom, statistic.clamp(min=0) / 2))


def fits(counts: Tensor, law: Tensor, least_expected: float = LEAST_EXPECTED) -> bool:
    return g_test(counts, law, least_expected) > ERROR_RATE
