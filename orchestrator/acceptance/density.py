"""A kernel density estimate on a line, in logarithms."""

from __future__ import annotations

import math
from collections import deque

# [ours] One evaluation costs a pass over the samples, and a round makes up to a few dozen: bounded, so that a
# round of a long text costs no more than one of a short text.
_SAMPLES_KEPT = 256
# [ours] Bandwidth for samples that (nearly) coincide. Distances closer than this mean nothing: a bracket from
# 256 entries is .027 wide on average.
_LEAST_BANDWIDTH = 0.01


class Density:
    """Gaussian kernel, Silverman's bandwidth (4 / (3 n))^(1/5) s, over the latest 256 samples.

    count: all samples ever added, for priors. bandwidth: the kernel's standard deviation now.
    """

    def __init__(self) -> None:
        self.count = 0
        self._samples: deque[float] = deque(maxlen=_SAMPLES_KEPT)
        self.bandwidth = _LEAST_BANDWIDTH

    def add(self, sample: float) -> None:
        self.count += 1
        self._samples.append(sample)
        self.bandwidth = max(_LEAST_BANDWIDTH, _silverman(self._samples))

    def log_density(self, value: float) -> float:
        """Natural logarithm of the estimate at `value`; needs at least one sample."""
        exponents = [-0.5 * ((value - sample) / self.bandwidth) ** 2 for sample in self._samples]
        largest = max(exponents)
        mass = math.fsum(math.exp(exponent - largest) for exponent in exponents)
        return largest + math.log(mass / (len(exponents) * self.bandwidth * math.sqrt(2 * math.pi)))


def _silverman(samples: deque[float]) -> float:
    number = len(samples)
    if number < 2:
        return 0.0
    mean = math.fsum(samples) / number
    variance = math.fsum((sample - mean) ** 2 for sample in samples) / (number - 1)
    return (4 / (3 * number)) ** 0.2 * math.sqrt(variance)
