"""How far a draft agrees with its target along the target's own texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from bench.draft.texts import Answer, Asked, answers, pairs_along, rows_along
from tandem.distributions import total_variation
from tandem.inference.runner import ModelRunner
from tandem.selection import argmax

#: Candidates of a round.
LENGTHS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Along:
    """One prompt. matches: at each place of the target's greedy text, whether the draft's likeliest token is the same.
    overlaps: 1 - TV at temperature 1 at each place of a text that the target sampled, which is how likely the ratio
    test accepts there."""

    dataset: str
    matches: Sequence[bool]
    overlaps: Sequence[float]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Means over all places. greedy_rounds, sampled_rounds: expected tokens of a round by candidates, those that the
    target adds included."""

    places: int
    greedy: float
    overlap: float
    greedy_rounds: Sequence[float]
    sampled_rounds: Sequence[float]


def measure(
    target: ModelRunner,
    draft: ModelRunner,
    questions: Sequence[Asked],
    *,
    max_tokens: int,
    ends: Collection[int],
    seed: int,
    say: Callable[[str], None] = lambda text: None,
) -> list[Along]:
    """Of each prompt."""
    made = [
        answers(target, questions, sampled=sampled, max_tokens=max_tokens, ends=ends, seed=seed, say=say)
        for sampled in (False, True)
    ]
    say("what the draft says along them")
    matches = [_matches(draft, answer) for answer in made[0]]
    overlaps = [
        (1 - total_variation(p.softmax(-1), q.softmax(-1))).tolist() for p, q in pairs_along(target, draft, made[1])
    ]
    return [
        Along(question.dataset, same, shares)
        for question, same, shares in zip(questions, matches, overlaps, strict=True)
    ]


def summed(found: Sequence[Along]) -> Agreement:
    """Of at least one prompt."""
    matches = [along.matches for along in found]
    overlaps = [along.overlaps for along in found]
    return Agreement(
        places=sum(map(len, matches)),
        greedy=_mean(matches),
        overlap=_mean(overlaps),
        greedy_rounds=[walked(matches, length) for length in LENGTHS],
        sampled_rounds=[expected(overlaps, length) for length in LENGTHS],
    )


def walked(texts: Sequence[Sequence[bool]], length: int) -> float:
    """Tokens of a round of so many candidates when the texts are walked from their beginnings, round by round: the
    candidates up to the first that differs, and one of the target's. NaN where no text is long enough for a round."""
    tokens = rounds = 0
    for matches in texts:
        at = 0
        while at + length <= len(matches):
            kept = next((place for place in range(length) if not matches[at + place]), length)
            at += kept + 1
            rounds += 1
        tokens += at
    return tokens / rounds if rounds else math.nan


def expected(texts: Sequence[Sequence[float]], length: int) -> float:
    """Tokens of a round of so many candidates, each accepted with its share, mean over all places where one may begin:
    1 + a_1 + a_1 a_2 + ... NaN where no text is long enough for a round."""
    rounds = []
    for shares in texts:
        for at in range(len(shares) - length + 1):
            reached = [math.prod(shares[at : at + kept]) for kept in range(1, length + 1)]
            rounds.append(1 + sum(reached))
    return sum(rounds) / len(rounds) if rounds else math.nan


def _matches(draft: ModelRunner, answer: Answer) -> list[bool]:
    found = argmax(rows_along(draft, answer)).tolist()
    return [one == other for one, other in zip(found, answer.tokens, strict=True)]


def _mean(texts: Sequence[Sequence[float]]) -> float:
    return sum(map(sum, texts)) / sum(map(len, texts))
