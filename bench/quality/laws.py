"""Do two samples come from one law? A permutation test of the G statistic (Fisher, 1935; Sokal and Rohlf, 1981)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

#: Chance that a whole run of tests finds a difference where there is none.
ERROR_RATE = 0.01
_PERMUTATIONS = 19_999
# Rarer outcomes are taken together: alone they tell next to nothing.
_LEAST_COUNT = 10

#: How often each outcome, a few tokens, was seen.
Counts = Counter[tuple[int, ...]]
_Integers = npt.NDArray[np.int64]
_Reals = npt.NDArray[np.float64]


def same_law(pairs: Sequence[tuple[Counts, Counts]], seed: int = 0) -> float:
    """The chance of samples at least as different, if in each pair both came from the same law.

    pairs: two independent samples for each of several laws, as of several prompts; their statistics are added. Exact
    but for the number of permutations, whatever the counts: given what both samples have together, under one law any
    split of it is as likely as any other, and splits are drawn at random.
    """
    source = np.random.default_rng(seed)
    found, drawn = 0.0, np.zeros(_PERMUTATIONS)
    for one, other in pairs:
        totals, counts = _columns(one, other)
        size = int(counts.sum())
        found += float(_g(counts, totals, size))
        splits = source.multivariate_hypergeometric(totals, size, size=_PERMUTATIONS, method="marginals")
        drawn += _g(splits, totals, size)
    # What was found is itself one of the splits; rounding must not make equals differ.
    return (1 + int((drawn >= found - 1e-9).sum())) / (1 + _PERMUTATIONS)


def outcomes(one: Counts, other: Counts) -> int:
    """Into how many kinds of outcome the test divides two samples."""
    return len(_columns(one, other)[0])


def _columns(one: Counts, other: Counts) -> tuple[_Integers, _Integers]:
    """Counts of both samples together and of the first, the rare outcomes in one column."""
    together = one + other
    common = [outcome for outcome, count in together.items() if count >= _LEAST_COUNT]
    totals = [together[outcome] for outcome in common]
    counts = [one[outcome] for outcome in common]
    if rest := together.total() - sum(totals):
        totals.append(rest)
        counts.append(one.total() - sum(counts))
    return np.array(totals, dtype=np.int64), np.array(counts, dtype=np.int64)


def _g(counts: _Integers, totals: _Integers, size: int) -> _Reals:
    """Twice the log-likelihood ratio of two laws against one. counts: [..., K] of the first sample, of `size`."""
    share = size / totals.sum()
    terms = _term(counts, totals * share) + _term(totals - counts, totals * (1 - share))
    return np.asarray(2 * terms.sum(-1), dtype=np.float64)


def _term(counts: _Integers, expected: _Reals) -> _Reals:
    return np.asarray(counts * np.log(np.where(counts > 0, counts, expected) / expected), dtype=np.float64)
