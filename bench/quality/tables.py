"""What was found of policies, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from bench.intervals import Interval
from bench.quality.lossless import CONTROL, Check
from bench.quality.measures import MEASURES, Estimate
from bench.tables import new_table

_VERDICTS = {True: "within noise", False: "beyond noise"}
_HOLDS = {True: "holds", False: "BROKEN", None: "says nothing"}


def quality_table(found: Mapping[str, Mapping[str, Estimate]]) -> Table:
    """Each measure of each policy; intervals of 95 %."""
    table = new_table("measure", "policy", "prompts", "measured", "less the target alone's", "difference")
    for measure in MEASURES:
        for name, estimates in found.items():
            if measure in estimates:
                estimate = estimates[measure]
                table.add_row(measure, name, str(estimate.prompts), _text(estimate.interval), *_difference(estimate))
    return table


def _difference(estimate: Estimate) -> tuple[str, str]:
    if estimate.against_alone is None:
        return "", ""
    verdict = "too few prompts" if estimate.within_noise is None else _VERDICTS[estimate.within_noise]
    return _text(estimate.against_alone), verdict


def _text(interval: Interval) -> str:
    """With a digit more than intervals show by themselves: differences are small."""
    return f"{interval.middle:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def lossless_table(checks: Sequence[Check]) -> Table:
    """Promises and whether they were kept."""
    table = new_table("policy", "promises", "found", "verdict")
    for check in checks:
        # The control promises nothing; what it shows stands in what was found.
        table.add_row(check.policy, check.what, check.found, "" if check.policy == CONTROL else _HOLDS[check.holds])
    return table
