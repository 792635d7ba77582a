"""What drafting and verifying cost of late: measured by all completions at a target, for those that choose lengths.

The model of a round is SmartSpec's (arXiv 2406.14066) with measured curves in the place of fitted lines and with the
wire: a block of n candidates takes

    n t_d + (1 + w) t_v(B (n + 1)) + t_o

t_d: a draft step. t_v(k): a step of the target that takes in k tokens, of all the sequences that it serves. B: how many
those are, so that the cost of a candidate is what it costs all of them; everyone is assumed to choose as this one does.
w: waiting for the step before, as a share of a step. t_o: all else, the wire included. Seconds.

Where the draft looks ahead, a share h of the blocks is there before it is asked for: drafted, and sent over the draft's
wire t_w, while the target verified the block before. A round then takes

    T + h max(0, n t_d + t_w - T) + (1 - h)(n t_d + t_w) + t_o,    T = (1 + w) t_v(B (n + 1))

with t_w taken out of t_o. For h = 1 that is the longer of the two; for h = 0 it is the sum above.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from tandem.step_times import Recent, StepTimes

# [ours] What is remembered of what changes at once when callers come or go.
_LOAD_MEMORY = 8
# Of a step; no clock measures less.
_LEAST_SECONDS = 1e-6


@dataclass(frozen=True, slots=True)
class RoundCosts:
    """What one round cost. Seconds; steps, tokens and sequences are counts.

    target_tokens, target_sequences: of the target's step, the other sequences' included. other: the rest of the round;
    draft_wire: its part in the exchange with the draft. foreseen: whether the block was there before it was asked for;
    None where nothing was to be.
    """

    draft_seconds: float
    draft_steps: int
    target_seconds: float
    target_queue_seconds: float
    target_tokens: float
    target_sequences: float
    other_seconds: float
    draft_wire_seconds: float = 0.0
    foreseen: bool | None = None


@dataclass(slots=True)
class Costs:
    """The model above. sessions: completions of this orchestrator under way at the target.

    B is remembered as a share of them: when callers come or go it changes with them at once. It is above 1 where others
    use the target, too.
    """

    verify: StepTimes = field(default_factory=StepTimes)
    draft_step: Recent = field(default_factory=partial(Recent, memory=_LOAD_MEMORY))
    sessions: int = 0
    _share: Recent = field(default_factory=partial(Recent, memory=_LOAD_MEMORY))
    _waiting: Recent = field(default_factory=partial(Recent, memory=_LOAD_MEMORY))
    _other: Recent = field(default_factory=partial(Recent, memory=_LOAD_MEMORY))
    _draft_wire: Recent = field(default_factory=partial(Recent, memory=_LOAD_MEMORY))
    _hits: Recent = field(default_factory=Recent)
    _other_plain: Recent = field(default_factory=partial(Recent, memory=_LOAD_MEMORY))

    def learn(self, costs: RoundCosts, *, drafted: int) -> None:
        """drafted: candidates; 0 for a token of plain decoding."""
        if costs.target_tokens > 0:
            # Nothing takes no time, whatever a target's clock says: rates are one over these.
            self.verify.add(costs.target_tokens, max(costs.target_seconds, _LEAST_SECONDS))
        if drafted == 0:
            self._other_plain.add(costs.other_seconds)
            return
        self._share.add(costs.target_sequences / max(1, self.sessions))
        self._waiting.add(costs.target_queue_seconds / max(costs.target_seconds, 1e-9))
        self._other.add(costs.other_seconds - costs.draft_wire_seconds)
        if not costs.foreseen:
            self._draft_wire.add(costs.draft_wire_seconds)
        if costs.foreseen is not None:
            self._hits.add(float(costs.foreseen))
        if costs.draft_steps:
            self.draft_step.add(costs.draft_seconds / costs.draft_steps)

    @property
    def is_known(self) -> bool:
        """Whether a round with candidates has been seen."""
        return self._other.value is not None and self.verify.is_known

    def round_seconds(self, candidates: float, *, overlaps: bool = False) -> float:
        """Of a block of so many, at least one. overlaps: whether the draft looks ahead."""
        drafting = candidates * self.draft_step.or_else(0.0) + self._draft_wire.or_else(0.0)
        verifying, other = self.verifying(candidates), self._other.or_else(0.0)
        hits = self._hits.or_else(0.0) if overlaps else 0.0
        waiting = hits * max(0.0, drafting - verifying) + (1 - hits) * drafting
        return verifying + waiting + other

    def tree_seconds(self, verifying: float, height: int) -> float:
        """Of a tree, a level of which is one step of the draft. verifying: what the target takes for it."""
        drafting = height * self.draft_step.or_else(0.0) + self._draft_wire.or_else(0.0)
        return drafting + verifying + self._other.or_else(0.0)

    def verifying(self, candidates: float) -> float:
        """The target's part of it, waiting included."""
        return (1 + self._waiting.or_else(0.0)) * self.verify(self.together() * (candidates + 1))

    def plain_seconds(self) -> float:
        """Of a token that the target makes alone."""
        return self.verify(max(self.together(), self.sessions)) + self._other_plain.or_else(0.0)

    def together(self) -> float:
        """B: sequences in one step of the target."""
        return max(1.0, self._share.or_else(1.0) * max(1, self.sessions))
