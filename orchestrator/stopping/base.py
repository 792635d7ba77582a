"""What every stop rule takes and gives.

A threshold changes only after a verification, so a rule's answer for a round travels to the draft as `Limits`
and is executed there without a round trip. Under ratio and block verification whether a token is submitted
may depend on its own distribution and on the tokens before it, never on itself; every rule here says in which
way it complies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from orchestrator.stopping.costs import RoundCosts


@dataclass(frozen=True, slots=True)
class Limits:
    """When drafting of one block ends; None does not act.

    max_tokens, min_tokens: candidates; below `min_tokens` only `max_tokens` acts. max_tokens 0: no block; the target
    makes the next `alone_tokens` alone, or as many as there are to be.
    max_entropy_before: nats; a token whose distribution has more is not drawn.
    max_entropy_after: nats; a token whose distribution had more is kept and drafting ends.
    min_probability: a token with q(x) below is kept and drafting ends.
    min_joint_probability: the same for the product of q(x) over the block.
    min_survival: the same for the product of the expected acceptances of its candidates, by their number; the last
    entry is also for longer blocks. acceptance_curve: knots: entropy in nats, expected acceptance.
    ahead: of a block that is drafted while another is verified, so that nobody waits for it; None: the same.
    """

    max_tokens: int
    min_tokens: int = 0
    max_entropy_before: float | None = None
    max_entropy_after: float | None = None
    min_probability: float | None = None
    min_joint_probability: float | None = None
    min_survival: tuple[float, ...] = ()
    acceptance_curve: tuple[tuple[float, float], ...] = ()
    alone_tokens: int = 0
    ahead: Limits | None = None


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What became of one block.

    drafted, accepted: candidates. cap: most candidates that were asked for.
    entropies: H(q) in nats, one per drafted token. probabilities: q(x), one per drafted token.
    matched: one per decided token, so True for each accepted one, then False for a rejected one.
    acceptances: one per decided token: the chance with which it was to be accepted, over what might have been drawn in
    its place, where that is known; otherwise what became of it.
    costs: of the round. A token of plain decoding is an outcome without candidates.
    is_tree: the path that was decided in a tree, with the candidates that were kept, or the first for the place where
    none was; `drafted` is its height where a place came to nothing.
    """

    drafted: int
    accepted: int
    cap: int
    entropies: tuple[float, ...]
    probabilities: tuple[float, ...]
    matched: tuple[bool, ...]
    acceptances: tuple[float, ...] = ()
    costs: RoundCosts | None = None
    is_tree: bool = False


class LearnsTogether:
    """A stop rule that learns with other completions: built with `experience` and `key`, besides its options."""


class StopRule(Protocol):
    """When to stop drafting, for one completion."""

    #: As in the policy.
    name: str

    def limits(self) -> Limits:
        """The limits of the next round."""
        ...

    def update(self, outcome: RoundOutcome) -> None:
        """Takes in one round; called once per verification, in their order."""
        ...

    def thresholds(self) -> dict[str, float]:
        """Thresholds in force by name: `entropy` (nats), `lambda`, `probability`, `survival`; those of the rule."""
        ...
