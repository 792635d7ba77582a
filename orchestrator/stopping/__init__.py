"""Rules that say when to stop drafting; all lossless. One object is the state of one completion."""

from orchestrator.stopping.adaedl import AdaEdl
from orchestrator.stopping.adasd import AdaSd
from orchestrator.stopping.base import LearnsTogether, Limits, RoundOutcome, StopRule
from orchestrator.stopping.confidence import Confidence
from orchestrator.stopping.costs import RoundCosts
from orchestrator.stopping.entropy import EntropyCeiling
from orchestrator.stopping.experiences import Experiences
from orchestrator.stopping.fixed import FixedLength
from orchestrator.stopping.goodput import Experience, Goodput
from orchestrator.stopping.registry import RULES

__all__ = [
    "RULES",
    "AdaEdl",
    "AdaSd",
    "Confidence",
    "EntropyCeiling",
    "Experience",
    "Experiences",
    "FixedLength",
    "Goodput",
    "LearnsTogether",
    "Limits",
    "RoundCosts",
    "RoundOutcome",
    "StopRule",
]
