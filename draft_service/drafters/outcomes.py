"""Which outcomes of a block are worth a branch: so many candidates kept, then this token.

Candidate i is expected to be accepted with probability a_i, so that i of n are kept with probability
a_1 .. a_i (1 - a_{i+1}), and all of them with a_1 .. a_n. The token that follows is told by its rank among the draft's
own: the k-th best besides the rejected one follows with the share that corrections of rank k had so far; after all
candidates the draft's best token follows with the mean acceptance, the others share the rest alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

#: Shares of corrections by rank, where nobody has counted them: of recorded traces, at temperature 0 or coupled, and
#: from the residual of the ratio test.
CHOSEN_SHARES = (0.63, 0.20, 0.08, 0.03, 0.02, 0.01, 0.01, 0.01)
SAMPLED_SHARES = (0.26, 0.15, 0.11, 0.07, 0.05, 0.04, 0.03, 0.02)
#: Expected acceptance, where nobody has said one.
ACCEPTANCE = 0.8


@dataclass(frozen=True, slots=True)
class Outcome:
    """kept: candidates. rank: of the token that follows, from 0, among the draft's best besides the rejected candidate;
    after all candidates among all of them. probability: expected."""

    kept: int
    rank: int
    probability: float


class Ranking(Protocol):
    """Chooses outcomes, likeliest first."""

    def __call__(
        self, acceptances: Sequence[float], shares: Sequence[float], choices: Sequence[int], most: int
    ) -> list[Outcome]:
        """acceptances: a_i of n candidates. shares: of corrections by rank. choices: tokens that there are after each
        number of candidates kept, n + 1 entries. most: outcomes."""
        ...


def likeliest(
    acceptances: Sequence[float], shares: Sequence[float], choices: Sequence[int], most: int
) -> list[Outcome]:
    """The outcomes of the largest probability; of equal ones those that keep more first."""
    found = _all(acceptances, shares, choices)
    return sorted(found, key=lambda outcome: (-outcome.probability, -outcome.kept, outcome.rank))[:most]


def geometric(
    acceptances: Sequence[float],
    shares: Sequence[float],
    choices: Sequence[int],
    most: int,
    *,
    exponent: float = 1.0,
) -> list[Outcome]:
    """The geometric fan-out of SSD (arXiv 2603.03251), which looks at the mean acceptance a alone: so many tokens after
    k of n candidates as a ** (k / (1 + r)), after all of them as a ** (n / (1 + r)) (1 - a) ** (-1 / (1 + r)).

    exponent: r, of the power law by which misses become rarer with more tokens.
    """
    mean = min(max(_mean(acceptances), 0.01), 0.99)
    last = len(acceptances)
    weights = [mean ** (kept / (1 + exponent)) for kept in range(last + 1)]
    weights[last] *= (1 - mean) ** (-1 / (1 + exponent))
    # One token after the other goes to where most is missing of its share, so that whole numbers add up.
    given = [0] * (last + 1)
    for _ in range(most):
        open_ones = [kept for kept in range(last + 1) if given[kept] < min(choices[kept], len(shares) + (kept == last))]
        if not open_ones:
            break
        given[max(open_ones, key=lambda kept: weights[kept] / (given[kept] + 1))] += 1
    found = [outcome for outcome in _all(acceptances, shares, choices) if outcome.rank < given[outcome.kept]]
    return sorted(found, key=lambda outcome: (-outcome.probability, -outcome.kept, outcome.rank))


def main_line(
    acceptances: Sequence[float], shares: Sequence[float], choices: Sequence[int], most: int
) -> list[Outcome]:
    """All candidates kept, then the draft's own next token: what PEARL (arXiv 2408.11850) drafts for."""
    last = len(acceptances)
    if not most or not choices[last]:
        return []
    return [Outcome(last, 0, math.prod(acceptances) * _mean(acceptances))]


def _all(acceptances: Sequence[float], shares: Sequence[float], choices: Sequence[int]) -> list[Outcome]:
    found, reached = [], 1.0
    for kept, acceptance in enumerate(acceptances):
        for rank, share in enumerate(shares[: choices[kept]]):
            found.append(Outcome(kept, rank, reached * (1 - acceptance) * share))
        reached *= acceptance
    last, mean = len(acceptances), _mean(acceptances)
    following = [mean, *((1 - mean) * share for share in shares)]
    for rank, share in enumerate(following[: choices[last]]):
        found.append(Outcome(last, rank, reached * share))
    return found


def _mean(acceptances: Sequence[float]) -> float:
    return sum(acceptances) / len(acceptances) if acceptances else ACCEPTANCE
