"""When drafting of a block ends: the limits of a round, followed candidate by candidate."""

from __future__ import annotations

import math
from bisect import bisect_right

from tandem.rpc.errors import TandemError
from tandem.v1 import draft_pb2

_MAX_BLOCK = 64
_MAX_KNOTS = 64
_MAX_BRANCHES = 64
_MAX_SHARES = 16
_MAX_BYTES = 16 << 20  # of what is drafted ahead of one block
# By which a sum of shares may exceed 1: they are rounded to float32.
_ROUNDING = 1e-4


class Limiter:
    """Follows one block; `max_tokens` is not its matter.

    What looks at a drawn token acts after it was kept: what is submitted may not depend on it (the causal rule of
    lossless verification). What acts before a token is drawn looks at its distribution only.
    """

    def __init__(self, limits: draft_pb2.DraftLimits) -> None:
        self._limits = limits
        self._drafted = 0
        self._log_joint = 0.0  # of the product of q(x)
        self._survival = 1.0

    def refuses(self, entropy: float) -> bool:
        """Whether the block ends before a token is drawn from a distribution of this entropy, in nats."""
        limits = self._limits
        if self._drafted < limits.min_tokens or not limits.HasField("max_entropy_before"):
            return False
        return entropy > limits.max_entropy_before

    def after(self, entropy: float, log_probability: float) -> draft_pb2.DraftStop.ValueType | None:
        """Takes in a candidate, log q(x) and H(q) in nats; which limit ends the block after it, if any."""
        limits = self._limits
        self._drafted += 1
        self._log_joint += log_probability
        if limits.min_survival:
            self._survival *= expected_acceptance(limits.acceptance_curve, entropy)
        if self._drafted < limits.min_tokens:
            return None
        if limits.HasField("max_entropy_after") and entropy > limits.max_entropy_after:
            return draft_pb2.DRAFT_STOP_ENTROPY_AFTER
        if limits.HasField("min_probability") and math.exp(log_probability) < limits.min_probability:
            return draft_pb2.DRAFT_STOP_PROBABILITY
        if limits.HasField("min_joint_probability") and math.exp(self._log_joint) < limits.min_joint_probability:
            return draft_pb2.DRAFT_STOP_JOINT_PROBABILITY
        if limits.min_survival:
            least = limits.min_survival[min(self._drafted, len(limits.min_survival)) - 1]
            if self._survival < least:
                return draft_pb2.DRAFT_STOP_SURVIVAL
        return None


def expected_acceptance(curve: draft_pb2.AcceptanceCurve, entropy: float) -> float:
    """The curve at an entropy in nats: linear between its knots, constant outside of them."""
    above = bisect_right(curve.entropies, entropy)
    if above == 0:
        return curve.acceptances[0]
    if above == len(curve.entropies):
        return curve.acceptances[-1]
    left, right = curve.entropies[above - 1], curve.entropies[above]
    share = (entropy - left) / (right - left)
    return curve.acceptances[above - 1] * (1 - share) + curve.acceptances[above] * share


def check_limits(limits: draft_pb2.DraftLimits, *, path: str) -> None:
    """Raises TandemError INVALID_FIELD for limits that mean nothing."""
    if limits.max_tokens > _MAX_BLOCK:
        raise TandemError.invalid_field(f"{path}.max_tokens", f"must be at most {_MAX_BLOCK}")
    if not limits.min_survival:
        return
    if len(limits.min_survival) > _MAX_BLOCK:
        raise TandemError.invalid_field(f"{path}.min_survival", f"has more than {_MAX_BLOCK} entries")
    for index, value in enumerate(limits.min_survival):
        if not value >= 0:  # nor is NaN
            raise TandemError.invalid_field(f"{path}.min_survival[{index}]", f"must not be negative, as {value} is")
    _check_curve(limits.acceptance_curve, f"{path}.acceptance_curve")


def check_look_ahead(plan: draft_pb2.LookAhead, *, path: str) -> None:
    """Raises TandemError INVALID_FIELD for a plan that means nothing."""
    if plan.max_branches > _MAX_BRANCHES:
        raise TandemError.invalid_field(f"{path}.max_branches", f"must be at most {_MAX_BRANCHES}")
    if plan.max_bytes > _MAX_BYTES:
        raise TandemError.invalid_field(f"{path}.max_bytes", f"must be at most {_MAX_BYTES}")
    if not 0 <= plan.hit_seconds < math.inf:
        problem = f"must be finite and not negative, not {plan.hit_seconds}"
        raise TandemError.invalid_field(f"{path}.hit_seconds", problem)
    check_limits(plan.limits, path=f"{path}.limits")
    if plan.acceptance_curve.entropies or plan.acceptance_curve.acceptances:
        _check_curve(plan.acceptance_curve, f"{path}.acceptance_curve")
    shares = plan.correction_shares
    if len(shares) > _MAX_SHARES:
        raise TandemError.invalid_field(f"{path}.correction_shares", f"has more than {_MAX_SHARES} entries")
    for index, share in enumerate(shares):
        if not 0 <= share <= 1:
            raise TandemError.invalid_field(f"{path}.correction_shares[{index}]", f"must lie in [0, 1], not {share}")
    if sum(shares) > 1 + _ROUNDING:
        raise TandemError.invalid_field(f"{path}.correction_shares", f"add up to {sum(shares):.6g}, more than 1")


def _check_curve(curve: draft_pb2.AcceptanceCurve, where: str) -> None:
    size = len(curve.entropies)
    if not 1 <= size <= _MAX_KNOTS or len(curve.acceptances) != size:
        counts = f"{size} entropies and {len(curve.acceptances)} acceptances"
        raise TandemError.invalid_field(where, f"needs 1 to {_MAX_KNOTS} knots of both kinds; it has {counts}")
    knots = list(curve.entropies)
    grows = all(one < other for one, other in zip(knots, knots[1:], strict=False))
    if not (0 <= knots[0] and math.isfinite(knots[-1]) and grows):
        raise TandemError.invalid_field(f"{where}.entropies", "must be finite, not negative, and grow")
    for index, value in enumerate(curve.acceptances):
        if not 0 <= value <= 1:
            raise TandemError.invalid_field(f"{where}.acceptances[{index}]", f"must lie in [0, 1], not {value}")
