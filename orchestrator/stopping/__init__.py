"""Rules that say when to stop drafting; all lossless. One object is the state of one completion."""

from orchestrator.stopping.adaedl import AdaEdl
from orchestrator.stopping.adasd import AdaSd
from orchestrator.stopping.base import Limits, RoundOutcome, StopRule
from orchestrator.stopping.confidence import Confidence
from orchestrator.stopping.costs import RoundCosts
from orchestrator.stopping.entropy import EntropyCeiling
from orchestrator.stopping.experiences import Experiences
from orchestrator.stopping.fixed import FixedLength
from orchestrator.stopping.goodput import Experience, Goodput

__all__ = [
    "AdaEdl",
    "AdaSd",
    "Confidence",
    "EntropyCeiling",
    "Experience",
    "Experiences",
    "FixedLength",
    "Goodput",
    "Limits",
    "RoundCosts",
    "RoundOutcome",
    "StopRule",
]
