"""The ratio test (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318)."""

from __future__ import annotations

from orchestrator.acceptance.base import Verification
from orchestrator.acceptance.lossless import LosslessRule


class RatioTest(LosslessRule):
    """Accept iff u q(x) < p(x); correction from norm(max(p - q, 0)). Match at temperature 0. Lossless."""

    name = "ratio"
    sampling_verification = Verification.RATIO
