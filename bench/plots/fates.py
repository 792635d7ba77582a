"""Candidates of traces by what became of them, and densities of what is known of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.plots.forms.decode import Round

Values = NDArray[np.float64]


@dataclass(slots=True)
class Fates:
    """Values of candidates that were accepted and of the first that was rejected in each round. Those behind it were
    never decided, and count for neither. thresholds: under which the rounds ran."""

    accepted: list[float] = field(default_factory=list)
    rejected: list[float] = field(default_factory=list)
    thresholds: list[float] = field(default_factory=list)


def entropies(trace: Sequence[Sequence[Round]]) -> Fates:
    fates = Fates()
    for each in (each for completion in trace for each in completion):
        _sort(fates, each, each.draft_entropies, "entropy")
    return fates


def distances(trace: Sequence[Sequence[Round]]) -> Fates:
    fates = Fates()
    for each in (each for completion in trace for each in completion):
        _sort(fates, each, each.distances, "distance")
    return fates


def _sort(fates: Fates, each: Round, values: Sequence[float | None], threshold: str) -> None:
    fates.accepted += [value for value in values[: each.kept] if value is not None]
    if each.kept < each.drafted:
        fates.rejected += [value for value in values[each.kept : each.kept + 1] if value is not None]
    if (limit := each.thresholds.get(threshold)) is not None:
        fates.thresholds.append(limit)


def density(samples: Sequence[float], at: Values, high: float | None) -> Values:
    """A kernel density estimate of values that are not below 0, nor above `high`: Gaussian kernel, Silverman's
    bandwidth (4 / (3 n))^(1/5) s, mirrored at the ends [ours], so that no mass lies where no value can.

    Needs two samples that differ.
    """
    values = np.asarray(samples, dtype=float)
    bandwidth = (4 / (3 * len(values))) ** 0.2 * values.std(ddof=1)
    mirrored = [values, -values] + ([2 * high - values] if high is not None else [])
    offsets = (at[:, None] - np.concatenate(mirrored)[None, :]) / bandwidth
    kernels = np.exp(-0.5 * offsets**2).sum(axis=1)
    found: Values = kernels / (len(values) * bandwidth * np.sqrt(2 * np.pi))
    return found
