"""A bandit over stop rules: each round one of them is in force, chosen by what it has yielded (after BanditSpec,
arXiv 2505.15141, and TapOut, arXiv 2511.02017).

The arms are other stop rules. Each is played once, in order; then the one with the largest upper confidence bound
(UCB1: Auer, Cesa-Bianchi and Fischer, 2002):

    mean reward of the arm + sqrt(2 ln(rounds) / rounds of the arm)

The bonus is each arm's own, and so an arm that was played seldom is tried again. (BanditSpec's theory has it so; its
public code divides by the rounds of all arms, which adds the same to each and makes the choice greedy.) [ours]: the
arms, which are the rules below; the reward, the mean of n_accepted / L and n_accepted / n_drafted, L the cap, which
lies in [0, 1] and praises long blocks and sparing ones alike, and depends on no clock, so that a seed's blocks keep
their lengths; an arm learns from its own rounds only. Which arm is in force depends on earlier rounds only, and each
arm is lossless: so is the bandit.
"""

from __future__ import annotations

import math

from orchestrator.options import Option
from orchestrator.stopping.adaedl import AdaEdl
from orchestrator.stopping.adasd import AdaSd
from orchestrator.stopping.base import Limits, RoundOutcome, StopRule
from orchestrator.stopping.confidence import Confidence
from orchestrator.stopping.entropy import EntropyCeiling
from orchestrator.stopping.fixed import FixedLength

_FIXED_LENGTH = 5


class Bandit:
    """max_tokens: the cap L, of all arms."""

    name = "bandit"
    options: tuple[Option, ...] = ()

    def __init__(self, max_tokens: int = 20) -> None:
        self._max_tokens = max_tokens
        self._arms: tuple[StopRule, ...] = (
            AdaEdl(max_tokens),
            AdaSd(max_tokens),
            Confidence(max_tokens),
            EntropyCeiling(max_tokens),
            FixedLength(min(_FIXED_LENGTH, max_tokens)),
        )
        self._rounds = [0] * len(self._arms)
        self._rewards = [0.0] * len(self._arms)  # sums

    @property
    def _chosen(self) -> int:
        """The same until the next round has been told."""
        if 0 in self._rounds:
            return self._rounds.index(0)
        bounds = [self._bound(arm) for arm in range(len(self._arms))]
        return bounds.index(max(bounds))

    def _bound(self, arm: int) -> float:
        rounds = self._rounds[arm]
        return self._rewards[arm] / rounds + math.sqrt(2 * math.log(sum(self._rounds)) / rounds)

    def limits(self) -> Limits:
        return self._arms[self._chosen].limits()

    def update(self, outcome: RoundOutcome) -> None:
        if outcome.drafted == 0:
            return
        arm = self._chosen
        self._rounds[arm] += 1
        self._rewards[arm] += (outcome.accepted / self._max_tokens + outcome.accepted / outcome.drafted) / 2
        self._arms[arm].update(outcome)

    def thresholds(self) -> dict[str, float]:
        """Of the arm in force, and its number: `arm`."""
        return {**self._arms[self._chosen].thresholds(), "arm": float(self._chosen)}
