"""Coupled sampling: the text is the target's own for its noise, and its law the target's."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from orchestrator.acceptance import Coupled
from tandem.gumbel import gumbel_argmax, gumbel_argmax_rows
from tandem.noise import NoiseStream
from target_service.verification import Rule, target_tokens, verify
from tests.rules.positions import candidate
from tests.statistics.goodness import ERROR_RATE, fits, g_test
from tests.statistics.pairs import Pair, pairs, random_pair
from tests.statistics.simulation import counts

SAMPLES = 1_000_000
PAIRS = pairs(4)
CHUNK = 250_000


def draws(rows: Tensor, count: int, stream: NoiseStream) -> Tensor:
    """The coupled draw after each state at each position: [V, count]."""
    found = [
        torch.cat([gumbel_argmax_rows(row.expand(CHUNK, -1), stream, first) for first in range(0, count, CHUNK)])
        for row in rows
    ]
    return torch.stack(found)


def walk(table: Tensor, first: Tensor, start: int, length: int) -> Tensor:
    """Texts [n, length] that begin at the positions `first`; each token looks up the draw after the one before."""
    state, text = torch.full_like(first, start), []
    for index in range(length):
        state = table[state, first + index]
        text.append(state)
    return torch.stack(text, dim=1)


@pytest.mark.parametrize("name", ["plain", "top-p"])
def test_the_joint_law_of_two_positions_is_the_targets(name: str) -> None:
    pair, stream = PAIRS[name], NoiseStream(5)
    table = draws(pair.log_p, 2 * SAMPLES, stream)
    text = walk(table, torch.arange(0, 2 * SAMPLES, 2), 0, 2)
    assert fits(counts(text, 4), pair.joint(0, 2))


def test_the_law_over_seeds_is_the_targets() -> None:
    row = PAIRS["plain"].log_p[0]
    drawn = torch.tensor([gumbel_argmax(row, NoiseStream(seed), 9) for seed in range(4000)])
    assert fits(drawn.bincount(minlength=4), row.double().exp())


def test_noise_that_differs_by_token_is_needed() -> None:
    """A mutant whose tokens share one noise draws the likeliest token always: the check refuses it."""
    row = PAIRS["plain"].log_p[0]
    same = row.argmax().expand(10_000)
    assert g_test(same.bincount(minlength=4), row.double().exp()) < ERROR_RATE


def emitted(pair: Pair, start: int, block: list[int], noise: NoiseStream, position: int) -> list[int]:
    """What one round of verification commits."""
    numbers = verify(Rule.COUPLED, pair.log_p[[start, *block]], block, None, noise, position)
    kept = Coupled(greedy=False).judge([candidate(accepted=chance == 1) for chance in numbers.acceptance]).kept
    return [*block[:kept], numbers.target_tokens[kept] if kept == len(block) else numbers.corrections[kept]]


@settings(max_examples=200, deadline=None)
@given(
    pair=st.builds(random_pair, st.just(5), st.integers(0, 10**4)),
    seed=st.integers(0, 2**64 - 1),
    position=st.integers(0, 10**6),
    start=st.integers(0, 4),
    blocks=st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=4),
)
def test_whatever_is_drafted_the_text_is_the_targets_own(pair, seed, position, start, blocks) -> None:
    """Any block may be submitted, and cut or dropped by any reason: coupled sampling is immune."""
    noise, text, state = NoiseStream(seed), [], start
    for block in blocks:
        text += emitted(pair, state, block, noise, position + len(text))
        state = text[-1]
    own, state = [], start
    for index in range(len(text)):
        own.append(int(target_tokens(Rule.COUPLED, pair.log_p[[state]], noise, position + index)))
        state = own[-1]
    assert text == own


def test_a_draft_with_the_same_noise_is_accepted_as_often_as_promised() -> None:
    pair, stream, count = PAIRS["far apart"], NoiseStream(6), 250_000
    for state, (row_p, row_q) in enumerate(zip(pair.log_p, pair.log_q, strict=True)):
        p, q = draws(torch.stack([row_p, row_q]), count, stream)
        variation = float((row_p.double().exp() - row_q.double().exp()).abs().sum() / 2)
        agreement = float((p == q).double().mean())
        # Five standard deviations of a mean of so many are .005.
        assert (1 - variation) / (1 + variation) - 0.005 < agreement < 1 - variation + 0.005, state


def test_a_draft_with_other_noise_is_accepted_less_often() -> None:
    row = PAIRS["plain"].log_p[:1]
    same, one, two = (draws(row, CHUNK, NoiseStream(seed))[0] for seed in (1, 1, 2))
    assert bool((same == one).all())
    chance = float(row.double().exp().square().sum())
    assert float((one == two).double().mean()) == pytest.approx(chance, abs=0.005)


def test_neighbouring_positions_share_no_noise() -> None:
    row = PAIRS["plain"].log_p[:1]
    table = draws(row, CHUNK, NoiseStream(3))[0]
    law = row[0].double().exp()
    for gap in (1, 2, 3):
        every = torch.arange(0, CHUNK - gap, gap + 1)
        joint = counts(torch.stack([table[every], table[every + gap]], dim=1), 4)
        assert fits(joint, torch.stack([a * b for a, b in itertools.product(law, law)]).view(4, 4))
