"""All stop rules by the names that policies and reports give them. A new one is a line here and a file beside this one.

A rule is a class with `name`; with `options`, the keywords that its constructor takes besides `max_tokens`, all with
defaults unless they are needed; and with what `StopRule` asks for.
"""

from __future__ import annotations

from typing import Any

from orchestrator.stopping.adaedl import AdaEdl
from orchestrator.stopping.adasd import AdaSd
from orchestrator.stopping.bandit import Bandit
from orchestrator.stopping.confidence import Confidence
from orchestrator.stopping.draft_verify import DraftVerify
from orchestrator.stopping.entropy import EntropyCeiling
from orchestrator.stopping.fixed import FixedLength
from orchestrator.stopping.goodput import Goodput
from orchestrator.stopping.joint_confidence import JointConfidence
from orchestrator.stopping.tiers import Tiers

_RULES: tuple[type[Any], ...] = (
    FixedLength,
    AdaSd,
    AdaEdl,
    Confidence,
    EntropyCeiling,
    Goodput,
    DraftVerify,
    JointConfidence,
    Bandit,
    Tiers,
)

RULES: dict[str, type[Any]] = {rule.name: rule for rule in _RULES}
