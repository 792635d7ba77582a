"""A stack of three models emits the target's law: an identity in float64, checked by enumeration.

The draft proposes, the middle verifies against its own law as it is cut and rounded for the wire, and the target
verifies the outcome against just these numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from unittest import mock

import pytest
import torch
from torch import Tensor

from tandem.noise import NoiseStream
from target_service import verification
from target_service.verification import Block, Rule, verify_many
from tests.statistics.exact import EXACT, Verifier, error, kept_chances
from tests.statistics.pairs import Pair, random_pair
from tests.statistics.trees import Drafting, Limits, leaves

RULES = [Rule.RATIO, Rule.BLOCK]
SIZE = 3


class MiddleVerifier(Verifier):
    """Verifies as a middle model does. entries: that it cuts its law to."""

    def __init__(self, rule: Rule, pair: Pair, entries: int) -> None:
        super().__init__(rule, pair)
        self._entries = entries

    def _verify(self, states: tuple[int, ...]) -> tuple[list[float], Tensor]:
        drawn_from: list[Tensor] = []
        draw = verification.inverse_cdf

        def watched(weights: Tensor, u: Tensor) -> Tensor:
            drawn_from.append(weights.clone())
            return draw(weights, u)

        rows = [self.pair.rows[state] for state in states[:-1]]
        block = Block(
            self.rule, states[1:], rows, NoiseStream(0), 0, max_entries=self._entries, drafts=True, attempt=7
        )
        with mock.patch.object(verification, "inverse_cdf", watched):
            (numbers,) = verify_many([block], [self.pair.log_p[list(states)]])
        assert not isinstance(numbers, Exception)
        own, corrections = drawn_from
        # What it draws from is what it sends, to the last bit.
        sent = torch.stack([Pair.law_of(row, SIZE) for row in numbers.rows])
        assert torch.equal(own, sent)
        return numbers.acceptance, corrections / corrections.sum(-1, keepdim=True)


@dataclass(eq=False)
class Tower:
    """target, middle, draft: fp32 [V, V] each. entries: that the middle sends. length: of the block for the target;
    drafted: most candidates of a block for the middle."""

    rule: Rule
    seed: int
    entries: int
    length: int = 3
    drafted: int = 2
    below: Pair = field(init=False)
    above: Pair = field(init=False)

    def __post_init__(self) -> None:
        self.below = random_pair(SIZE, self.seed, scale=2.0)
        target = random_pair(SIZE, self.seed + 100, scale=2.0).log_p
        # Its rows are the middle's law, cut and rounded.
        self.above = Pair(target, self.below.log_p, self.entries)
        self._middle = MiddleVerifier(self.rule, self.below, self.entries)

    @functools.cache  # noqa: B019
    def proposed(self, state: int, wanted: int | None = None) -> tuple[tuple[tuple[int, ...], float], ...]:
        """The middle's texts after a state, until they have as many tokens as are wanted."""
        wanted = self.length if wanted is None else wanted
        if not wanted:
            return (((), 1.0),)
        found: dict[tuple[int, ...], float] = {}
        for text, chance in self._round(state, wanted):
            for rest, more in self.proposed(text[-1], wanted - len(text)):
                found[text + rest] = found.get(text + rest, 0.0) + chance * more
        return tuple(found.items())

    def _round(self, state: int, wanted: int) -> Iterator[tuple[tuple[int, ...], float]]:
        """What one round of draft and middle adds, with its chance: kept candidates and a token after them."""
        drafting = Drafting(self.below, Limits(max_tokens=min(self.drafted, wanted - 1)))
        for block, chance in leaves(drafting.tree(state), self.below):
            acceptance, corrections = self._middle(state, block)
            for kept, weight in enumerate(kept_chances(self.rule, acceptance)):
                law = self.above.q((state, *block)[kept]) if kept == len(block) else corrections[kept]
                for token, share in enumerate(law.tolist()):
                    if chance * weight * share > 0:
                        yield (*block[:kept], token), chance * weight * share


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("entries", [1, 2, 3])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_joint_law_of_three_tokens_is_the_targets(rule: Rule, entries: int, seed: int) -> None:
    tower = Tower(rule, seed, entries)
    drafting = Drafting(tower.above, Limits(max_tokens=3))
    assert error(rule, drafting, proposed=tower.proposed) < EXACT


@pytest.mark.parametrize("rule", RULES)
def test_the_middles_text_has_the_law_that_it_sends(rule: Rule) -> None:
    tower = Tower(rule, 1, 2)
    for state in range(SIZE):
        law = torch.zeros((SIZE,) * 3, dtype=torch.float64)
        for text, chance in tower.proposed(state):
            law[text] += chance
        joint = tower.above.q(state)
        for _ in range(2):
            joint = joint.unsqueeze(-1) * torch.stack([tower.above.q(token) for token in range(SIZE)])
        torch.testing.assert_close(law, joint, rtol=0, atol=EXACT)


@pytest.mark.parametrize("rule", RULES)
def test_a_law_that_is_cut_after_it_was_verified_against_is_not_the_one_of_the_text(rule: Rule) -> None:
    """The mutant: the middle verifies against all of p, and sends the likeliest two."""
    tower = Tower(rule, 1, 2)
    tower._middle = Verifier(rule, tower.below)  # type: ignore[assignment]
    drafting = Drafting(tower.above, Limits(max_tokens=3))
    with pytest.raises((AssertionError, ValueError)):
        assert error(rule, drafting, proposed=tower.proposed) < EXACT


@pytest.mark.parametrize("rule", RULES)
def test_only_a_drafts_draws_carry_the_round(rule: Rule) -> None:
    """What the target rejects is drawn again at the same position; what it emits itself is drawn once."""
    flat = torch.full((1, 64), 1 / 64).log()

    def drawn(attempt: int, drafts: bool) -> int:
        spec = {"max_entries": 64, "drafts": True, "attempt": attempt} if drafts else {}
        (found,) = verify_many([Block(rule, (), None, NoiseStream(5), 9, **spec)], [flat])
        assert not isinstance(found, Exception)
        return found.target_tokens[0]

    assert len({drawn(attempt, True) for attempt in range(12)}) > 6
    assert drawn(0, True) == drawn(0, False)
