"""The goodput rule [ours]: draft for as long as a candidate is worth its time, and not at all where none is.

The goodput of a block of n candidates (SmartSpec, arXiv 2406.14066) is what it is expected to yield over what it costs,
all measured (`costs.py`, `expectation.py`):

    G(n) = (1 + sum of s_i) / (n t_d + (1 + w) t_v(B (n + 1)) + t_o),    s_i = a^i,    G(0) = 1 / t_plain

Every n up to the cap is tried, since t_v has steps. Where G(0) is the largest the target goes on alone for a while,
ever longer, and one block after it tells whether that is still so. Otherwise a block goes on while its next candidate
is expected to yield more than its time is worth at the best goodput known, G:

    after candidate i stop iff for all m > i: S (a + ... + a^(m-i)) < G (cost of m - cost of i),
    S = product of a(H) over the block, a = mean of a(H)

Where blocks are drafted while others are verified, a share h of them is there in time; `costs.py` has the time of such
a round, from which G is. Their candidates cost what verifying them does; those of the others, which are asked for, a
draft step each besides: there are limits for both.

a(H): expected acceptance by entropy, calibrated on line. Where costs grow evenly, m = i + 1 decides: looking one step
ahead is optimal for independent candidates, as S never grows (the monotone case of optimal stopping: Chow, Robbins and
Siegmund, 1971). The rule sees the entropy of distributions, never what was drawn from them: every exact rule stays
exact. There is nothing to tune. Block lengths
depend on measured times, so a seed gives the same text only under rules whose text does not depend on them (greedy,
coupled).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from orchestrator.look_ahead.corrections import CorrectionShares
from orchestrator.options import Option
from orchestrator.stopping.base import LearnsTogether, Limits, RoundOutcome
from orchestrator.stopping.costs import Costs
from orchestrator.stopping.expectation import AcceptanceCurve, OwnCurve, knots
from orchestrator.trees.ranks import RankAcceptance
from tandem.step_times import Recent

# Before anything is known.
_FIRST_LENGTH = 5
# Candidates over which a target's step may be flat before it rises; looked across when pricing the next ones.
_STEP = 8
# From so many sequences in a step of the target on, they are taken to draft together, too.
_CROWD = 1.5
# Tokens that the target makes alone before speculation is tried again: from the first to the last, doubling.
_ALONE = (8, 64)


@dataclass(slots=True)
class Experience:
    """What completions have learnt together (`experiences.py` says which). curves, corrections, ranks: by what
    acceptance depends on, the accept rule and whether the temperature is 0."""

    costs: Costs = field(default_factory=Costs)
    curves: dict[object, AcceptanceCurve] = field(default_factory=dict)
    corrections: dict[object, CorrectionShares] = field(default_factory=dict)
    ranks: dict[object, RankAcceptance] = field(default_factory=dict)

    def curve(self, key: object) -> AcceptanceCurve:
        return self.curves.setdefault(key, AcceptanceCurve())

    def own_curve(self, key: object) -> OwnCurve:
        """Of one completion."""
        return OwnCurve(self.curve(key))

    def shares(self, key: object, *, is_shared: bool) -> CorrectionShares:
        """is_shared: whether draft and target choose by the same rule or noise."""
        return self.corrections.setdefault(key, CorrectionShares(is_shared=is_shared))

    def rank_acceptance(self, key: object, *, is_shared: bool) -> RankAcceptance:
        """is_shared: as in `shares`."""
        return self.ranks.setdefault(key, RankAcceptance(is_shared=is_shared))


class Goodput(LearnsTogether):
    """max_tokens: the cap. experience: shared with other completions. key: of its curve."""

    name = "goodput"
    options: tuple[Option, ...] = ()

    def __init__(self, max_tokens: int = 20, experience: Experience | None = None, key: object = None) -> None:
        experience = experience or Experience()
        self._max_tokens = max_tokens
        self._costs = experience.costs
        self._curve = OwnCurve(experience.curve(key))
        self._drafted, self._yielded = Recent(), Recent()  # of a block: its candidates and its tokens
        self._alone = _ALONE[0]
        self._was_alone = False
        self._survival: float | None = None
        self._overlaps = False  # whether blocks are drafted while others are verified

    def limits(self) -> Limits:
        if not self._costs.is_known:
            return Limits(max_tokens=min(_FIRST_LENGTH, self._max_tokens))
        lengths = range(1, self._max_tokens + 1)
        seconds = [self._round_seconds(candidates) for candidates in lengths]
        # Those that draft together end together: a longer block of one lets all others wait for it.
        crowded = self._costs.together() >= _CROWD
        mean = self._curve.mean_of_all if crowded else self._curve.mean
        (best, length), plain = self._best(seconds, mean), 1 / self._costs.plain_seconds()
        # A few rejections at the start must not end speculation for long: it is given up once no hope is left for it.
        pays = best >= plain or self._best(seconds, self._curve.hoped)[0] >= plain
        if not pays and not self._was_alone:
            self._was_alone = True
            tokens, self._alone = self._alone, min(2 * self._alone, _ALONE[1])
            return Limits(max_tokens=0, alone_tokens=tokens)
        if pays:
            self._alone = _ALONE[0]
        self._was_alone = False
        # Nobody waits for a block that is drafted ahead, but for its verification.
        verifying = [self._costs.verifying(candidates) for candidates in lengths]
        if crowded:  # and what one of them drafts less is saved by the target alone
            waited = verifying[:length]
        else:
            waited = [self._costs.round_seconds(candidates) for candidates in lengths]
        goodput = max(best, plain)
        limits = self._limits(waited, goodput)
        self._survival = limits.min_survival[0] if limits.min_survival else None
        return replace(limits, ahead=self._limits(verifying, goodput)) if self._overlaps else limits

    def _limits(self, seconds: Sequence[float], goodput: float) -> Limits:
        """Of a block whose first, second, ... candidate lets others wait so long, in all."""
        return Limits(
            max_tokens=len(seconds),
            min_tokens=1,
            acceptance_curve=tuple(zip(knots(), self._curve.values(), strict=True)),
            min_survival=self._least_survivals(seconds, goodput),
        )

    def _round_seconds(self, candidates: float) -> float:
        return self._costs.round_seconds(candidates, overlaps=self._overlaps)

    def _best(self, seconds: Sequence[float], acceptance: float) -> tuple[float, int]:
        """The best goodput of a block with candidates, each accepted with that chance, in tokens per second, and the
        fixed length that is best.

        seconds: of rounds with 1, 2, ... candidates. Where blocks end when they should they do better than any fixed
        length: what they have yielded counts too.
        """
        survival, tokens, best, length = 1.0, 1.0, 0.0, 1
        for candidates, cost in enumerate(seconds, start=1):
            survival *= acceptance
            tokens += survival
            if tokens > best * cost:
                best, length = tokens / cost, candidates
        if self._drafted.value is not None and self._yielded.value is not None:
            best = max(best, self._yielded.value / self._round_seconds(self._drafted.value))
        return best, length

    def _least_survivals(self, seconds: Sequence[float], goodput: float) -> tuple[float, ...]:
        """After each number of candidates: the survival below which no longer block is worth its time."""
        acceptance, least = self._curve.mean, []
        for length in range(len(seconds) - 1):
            more, survival, best = 0.0, 1.0, math.inf
            for longer in range(length + 1, len(seconds)):
                survival *= acceptance
                more += survival
                price = goodput * (seconds[longer] - seconds[length]) / max(more, 1e-9)
                if price > best and longer > length + _STEP:
                    break
                best = min(best, price)
            # A larger step may have been measured as the quicker one.
            least.append(max(0.0, best))
        return tuple(least)

    def update(self, outcome: RoundOutcome) -> None:
        if outcome.costs is not None:
            self._costs.learn(outcome.costs, drafted=outcome.drafted)
            self._overlaps |= outcome.costs.foreseen is not None
        if outcome.drafted == 0:
            return
        if not outcome.is_tree:
            self._drafted.add(outcome.drafted)
            self._yielded.add(outcome.accepted + 1)
        for entropy, acceptance in zip(outcome.entropies, outcome.acceptances, strict=False):
            self._curve.add(entropy, acceptance)

    def thresholds(self) -> dict[str, float]:
        return {} if self._survival is None else {"survival": self._survival}
