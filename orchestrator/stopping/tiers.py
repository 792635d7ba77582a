"""Lengths in tiers, by what was accepted of late: the adaptive number of steps of SGLang (from its public code).

    EMA <- 0.8 EMA + 0.2 n_accepted

Blocks have 1, 3 or 7 candidates. After 10 rounds of warm-up and then every 5 rounds the tier n becomes

    the one below, n', while EMA <= n' - 0.5
    the one above      while EMA > n - 0.75

Rising takes less than staying (the code's hysteresis of -0.25), since what a longer block would yield is not seen in
shorter ones. The EMA starts at one less than the first tier, and counts accepted candidates without the token after
them. There all requests of a batch share it; here it is the completion's own [ours], the first tier is the middle one
[ours], and `max_tokens` cuts the tiers that exceed it [ours]. Lengths depend on outcomes of earlier rounds only: every
exact rule stays exact.
"""

from __future__ import annotations

from orchestrator.options import Option
from orchestrator.stopping.base import Limits, RoundOutcome

_TIERS = (1, 3, 7)
_MEMORY = 0.8
_WARM_UP = 10
_EVERY = 5
_FALL, _RISE = -0.5, -0.75


class Tiers:
    """max_tokens: the last tier."""

    name = "tiers"
    options: tuple[Option, ...] = ()

    def __init__(self, max_tokens: int = 7) -> None:
        self._tiers = sorted({min(tier, max_tokens) for tier in _TIERS})
        self._tier = len(self._tiers) // 2
        self._accepted = float(self._length - 1)
        self._rounds = 0

    @property
    def _length(self) -> int:
        return self._tiers[self._tier]

    def limits(self) -> Limits:
        return Limits(max_tokens=self._length)

    def update(self, outcome: RoundOutcome) -> None:
        if outcome.drafted == 0:
            return
        self._accepted = _MEMORY * self._accepted + (1 - _MEMORY) * outcome.accepted
        self._rounds += 1
        if self._rounds > _WARM_UP and (self._rounds - _WARM_UP) % _EVERY == 0:
            self._move()

    def _move(self) -> None:
        while self._tier > 0 and self._accepted <= self._tiers[self._tier - 1] + _FALL:
            self._tier -= 1
        while self._tier < len(self._tiers) - 1 and self._accepted > self._length + _RISE:
            self._tier += 1

    def thresholds(self) -> dict[str, float]:
        return {"accepted": self._accepted}
