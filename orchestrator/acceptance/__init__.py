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
    TargetNumbers,
    Verification,
)
from orchestrator.acceptance.block import BlockVerification
from orchestrator.acceptance.consultant import Consultant
from orchestrator.acceptance.coupled import Coupled
from orchestrator.acceptance.exact import Exact
from orchestrator.acceptance.fly import Fly
from orchestrator.acceptance.jsd import FixedDistance
from orchestrator.acceptance.lossless import LosslessRule
from orchestrator.acceptance.ratio import RatioTest
from orchestrator.acceptance.registry import RULES
from orchestrator.acceptance.tolerance import Tolerance
from orchestrator.acceptance.typical import Typical

__all__ = [
    "RULES",
    "AcceptRule",
    "AdaSd",
    "AdaSdKde",
    "BlockVerification",
    "Bracket",
    "Consultant",
    "Coupled",
    "Exact",
    "FixedDistance",
    "Fly",
    "Judgement",
    "LosslessRule",
    "Position",
    "RatioTest",
    "Sample",
    "Source",
    "TargetNumbers",
    "Tolerance",
    "Typical",
    "Verification",
]
