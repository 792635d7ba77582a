"""The names of sides and figures. Imports no torch, so that flags are read before it is loaded."""

from __future__ import annotations

from bench.policies import ADASD, ALONE, GOODPUT, VANILLA

PLAIN = "transformers"
ASSISTED = "transformers, assisted"
FIXED = "transformers, assisted, fixed 3"
LOOKUP = "transformers, prompt lookup"

#: Policies of Tandem where nobody names others; the target alone is always among the sides.
DEFAULT_POLICIES = (VANILLA, ADASD, GOODPUT)

FULL = "full"
DRAFT_WEIGHTS = (FULL, "int8", "int4")

OVER_ASSISTED = "lossless_over_assisted"
OVER_ASSISTED_FULL = "lossless_over_assisted_full"
OVER_ASSISTED_8 = "lossless_over_assisted_8"
OVER_OFF_8 = "lossless_over_off_8"

#: Callers at once that the two last figures are for.
MANY = 8


#: What the names of Tandem's sides begin with.
OURS = "tandem, "


def tandem_name(policy: str, draft_weights: str = FULL) -> str:
    """As `tandem, vanilla 5` or `tandem, goodput, int4 draft`."""
    short = "off" if policy == ALONE else policy.replace(",", "")
    return OURS + short + ("" if draft_weights == FULL else f", {draft_weights} draft")
