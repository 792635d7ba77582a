"""Coupled, drafter-invariant sampling (Daliri et al. 2024)."""

from __future__ import annotations

from orchestrator.acceptance.base import Verification
from orchestrator.acceptance.lossless import LosslessRule


class Coupled(LosslessRule):
    """Draft and target draw by Gumbel-max from the same noise; accept iff the draws agree.

    On a mismatch the correction is the target's draw. Lossless, and the text for a seed is the same with and
    without speculation. Match at temperature 0.
    """

    name = "coupled"
    sampling_verification = Verification.COUPLED
