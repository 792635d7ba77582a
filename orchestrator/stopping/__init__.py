"""Rules that say when to stop drafting; all lossless. One object is the state of one completion."""

from orchestrator.stopping.adaedl import AdaEdl
from orchestrator.stopping.adasd import AdaSd
from orchestrator.stopping.bandit import Bandit
from orchestrator.stopping.base import LearnsTogether, Limits, RoundOutcome, StopRule
from orchestrator.stopping.confidence import Confidence
from orchestrator.stopping.costs import RoundCosts
from orchestrator.stopping.draft_verify import DraftVerify
from orchestrator.stopping.entropy import EntropyCeiling
from orchestrator.stopping.experiences import Experiences
from orchestrator.stopping.fixed import FixedLength
from orchestrator.stopping.goodput import Experience, Goodput
from orchestrator.stopping.joint_confidence import JointConfidence
from orchestrator.stopping.registry import RULES
from orchestrator.stopping.tiers import Tiers

__all__ = [
    "RULES",
    "AdaEdl",
    "AdaSd",
    "Bandit",
    "Confidence",
    "DraftVerify",
    "EntropyCeiling",
    "Experience",
    "Experiences",
    "FixedLength",
    "Goodput",
    "JointConfidence",
    "LearnsTogether",
    "Limits",
    "RoundCosts",
    "RoundOutcome",
    "StopRule",
    "Tiers",
]
