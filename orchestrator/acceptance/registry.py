"""All accept rules by the names that policies and reports give them. A new one is a line here and a file beside this
one.

A rule is a class with `name`; with `options`, the keywords that its constructor takes besides `greedy`, all with
defaults unless they are needed; and with what `AcceptRule` asks for.
"""

from __future__ import annotations

from typing import Any

from orchestrator.acceptance.adasd import AdaSd
from orchestrator.acceptance.adasd_kde import AdaSdKde
from orchestrator.acceptance.block import BlockVerification
from orchestrator.acceptance.consultant import Consultant
from orchestrator.acceptance.coupled import Coupled
from orchestrator.acceptance.exact import Exact
from orchestrator.acceptance.fly import Fly
from orchestrator.acceptance.jsd import FixedDistance
from orchestrator.acceptance.ratio import RatioTest
from orchestrator.acceptance.tolerance import Tolerance
from orchestrator.acceptance.typical import Typical

_RULES: tuple[type[Any], ...] = (
    Exact,
    RatioTest,
    BlockVerification,
    Coupled,
    FixedDistance,
    AdaSd,
    AdaSdKde,
    Fly,
    Consultant,
    Typical,
    Tolerance,
)

RULES: dict[str, type[Any]] = {rule.name: rule for rule in _RULES}
