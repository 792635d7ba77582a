"""The lossless policies of which the best counts."""

from __future__ import annotations

from bench.policies import ALONE, GOODPUT, POLICIES
from tandem.policies import policy_from_names
from tandem.v1 import policy_pb2

_LENGTHS = (1, 2, 3, 5)


def lossless(temperature: float) -> dict[str, policy_pb2.SpeculationPolicy]:
    """The target alone first; then what speculates without a change of the text, or of its law."""
    found = {name: POLICIES[name] for name in (ALONE, GOODPUT)}
    found |= {f"fixed, {length}": policy_from_names("fixed", "exact", max_tokens=length) for length in _LENGTHS}
    found["confidence"] = policy_from_names("confidence", "exact")
    if temperature:
        found["goodput, coupled"] = policy_from_names("goodput", "coupled")
        found["fixed, 3, block"] = policy_from_names("fixed", "block", max_tokens=3)
    return found
