"""From the target's numbers to what an accept rule decides on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.acceptance import AcceptRule, Bracket, Judgement, Position, TargetNumbers, Verification
from orchestrator.account import RoundClock
from orchestrator.stopping import RoundOutcome
from tandem.noise import NoiseStream, Purpose
from tandem.trees import ROOT, Tree
from tandem.v1 import block_pb2, target_pb2

# Under these a candidate's chance, before it was drawn, is 1 - TV of p and q; under block verification, which keeps
# more, at least that.
_RATIO_LIKE = (Verification.RATIO, Verification.BLOCK)


def positions(
    block: block_pb2.Block,
    verified: target_pb2.VerifiedBlock,
    noise: NoiseStream,
    stop_token_ids: frozenset[int],
) -> list[Position]:
    """One for each candidate. The numbers of `noise` go by a candidate's place in the block, of a tree too, so that no
    two candidates of a round share any."""
    measured = bool(verified.distances_lower)
    rows = [parent + 1 for parent in block.parents] or range(len(block.token_ids))

    def uniform(purpose: Purpose, index: int, probability: float = 0.5) -> float:
        """Decides an event of `probability`; drawn only where there is something to decide (it takes its time)."""
        return noise.uniform(purpose, block.position + index, verified.round) if 0 < probability < 1 else 0.0

    return [
        Position(
            token=token,
            acceptance=verified.acceptance_probabilities[index],
            u=uniform(Purpose.ACCEPT, index, verified.acceptance_probabilities[index]),
            v=uniform(Purpose.KDE, index) if measured else 0.0,
            correction=verified.correction_token_ids[index],
            target_token=verified.target_token_ids[rows[index]],
            in_support=verified.in_support[index],
            distance=Bracket(verified.distances_lower[index], verified.distances_upper[index]) if measured else None,
            tv=verified.total_variations[index] if measured else None,
            exact_only=token in stop_token_ids,
            target=TargetNumbers(
                log_p=verified.log_probabilities[index],
                max_log_p=verified.max_log_probabilities[index],
                entropy=verified.entropies[index],
                top3_entropy=verified.top3_entropies[index],
            ),
        )
        for index, token in enumerate(block.token_ids)
    ]


def expected_acceptances(
    decided: list[Position], judgement: Judgement, rule: AcceptRule, verification: Verification
) -> tuple[float, ...]:
    """Of each decided candidate: the chance with which one drawn in its place is accepted, where that is known,
    otherwise what became of it. A mean over what might have been drawn is less noisy than 0 or 1."""
    chances = []
    for index, position in enumerate(decided[: judgement.kept + 1]):
        if verification in _RATIO_LIKE and not rule.lossy and position.tv is not None:
            chances.append(1.0 - position.tv)
        else:
            chances.append(float(index < judgement.kept))
    return tuple(chances)


@dataclass(frozen=True, slots=True)
class Places:
    """Where what was committed stands in the target's columns: the kept candidates among those of candidates (n), and
    the position of each and of the token after them among those of positions (n + 1). rejected: the first candidate for
    the place of that token; None where there was none, so that it is the bonus."""

    candidates: Sequence[int]
    rows: Sequence[int]
    rejected: int | None


def places(block: block_pb2.Block, judgement: Judgement) -> Places:
    if not block.parents:
        kept, size = judgement.kept, len(block.token_ids)
        return Places(range(kept), range(kept + 1), kept if kept < size else None)
    path = judgement.path
    below = Tree(block.parents).children(path[-1] if path else ROOT)
    return Places(path, (0, *(index + 1 for index in path)), below[0] if below else None)


def outcome(
    block: block_pb2.Block,
    decided: list[Position],
    judgement: Judgement,
    rule: AcceptRule,
    verification: Verification,
    cap: int,
    clock: RoundClock,
) -> RoundOutcome:
    """What a stop rule is told of a block with candidates. cap: most that it might have had."""
    kept, drafted = judgement.kept, len(decided)
    return RoundOutcome(
        drafted=drafted,
        accepted=kept,
        cap=cap,
        entropies=tuple(block.entropies),
        probabilities=tuple(math.exp(value) for value in block.log_probabilities),
        matched=(True,) * kept + (False,) * (kept < drafted),
        acceptances=expected_acceptances(decided, judgement, rule, verification),
        costs=clock.costs(),
    )
