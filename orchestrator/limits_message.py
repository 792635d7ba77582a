"""The limits of a stop rule, as they travel to the draft."""

from __future__ import annotations

from orchestrator.stopping import Limits
from tandem.v1 import draft_pb2


def limits_message(limits: Limits, cap: int) -> draft_pb2.DraftLimits:
    """cap: most candidates, `limits.max_tokens` or fewer."""
    message = draft_pb2.DraftLimits(
        min_tokens=limits.min_tokens,
        max_tokens=cap,
        max_entropy_before=limits.max_entropy_before,
        max_entropy_after=limits.max_entropy_after,
        min_probability=limits.min_probability,
        min_joint_probability=limits.min_joint_probability,
        min_survival=limits.min_survival,
    )
    for entropy, acceptance in limits.acceptance_curve:
        message.acceptance_curve.entropies.append(entropy)
        message.acceptance_curve.acceptances.append(acceptance)
    return message
