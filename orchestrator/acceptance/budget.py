"""How far the law of a text may be from the target's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LossyBudget:
    """Most total variation that may be charged over a completion; None is no limit, 0 lossless.

    If the law of every position differs from p by at most what is charged there, and whether it is charged
    depends only on the tokens before it, then TV(text, target's text) is at most the sum charged.
    """

    limit: float | None = None

    def allows(self, spent: float, price: float) -> bool:
        """Whether `price` may be charged after `spent`."""
        return self.limit is None or spent + price <= self.limit
