"""Rules that say which candidates to accept. One object is the state of one completion."""

from orchestrator.acceptance.adasd import AdaSd
from orchestrator.acceptance.adasd_kde import AdaSdKde
from orchestrator.acceptance.base import (
    AcceptRule,
    Bracket,
    Judgement,
    Position,
    Sample,
    Source,
    Verification,
)
from orchestrator.acceptance.block import BlockVerification
from orchestrator.acceptance.coupled import Coupled
from orchestrator.acceptance.exact import Exact
from orchestrator.acceptance.jsd import FixedDistance
from orchestrator.acceptance.ratio import RatioTest
from orchestrator.acceptance.registry import RULES

__all__ = [
    "RULES",
    "AcceptRule",
    "AdaSd",
    "AdaSdKde",
    "BlockVerification",
    "Bracket",
    "Coupled",
    "Exact",
    "FixedDistance",
    "Judgement",
    "Position",
    "RatioTest",
    "Sample",
    "Source",
    "Verification",
]
