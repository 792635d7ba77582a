"""The likeliest tokens beside a draw: what comes instead where the target wants another one."""

from __future__ import annotations

import math

import pytest
import torch

from draft_service.drafters.drawing import MOST_BEST, Draw, Drawn, draw_many
from tandem.gumbel import Counters, gumbel, gumbel_best_batch, philox_words
from tandem.noise import NoiseStream, Purpose
from tandem.selection import top_places
from tandem.v1 import sampling_pb2

SIZES = [7, 300, 5000, 49_152]


def rows(size: int, seed: int = 0, count: int = 4) -> torch.Tensor:
    made = torch.randn(count, size, generator=torch.Generator().manual_seed(seed)) * 3
    return made.log_softmax(-1)


@pytest.mark.parametrize("size", SIZES)
def test_top_places_are_those_of_the_whole_row(size: int) -> None:
    row = rows(size)
    assert torch.equal(top_places(row, 5), row.topk(5).indices)


def test_what_has_no_probability_is_nowhere_among_the_best() -> None:
    row = torch.full((2, 5000), -math.inf)
    row[0, [3, 4999]] = torch.tensor([-1.0, -0.5])
    row[1, :4] = -2.0
    assert top_places(row, 3).tolist()[0] == [4999, 3, -1]
    assert sorted(top_places(row, 6).tolist()[1]) == [-1, -1, 0, 1, 2, 3]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cut", [False, True])
def test_coupled_draws_are_ranked_with_the_noise_that_the_target_shares(size: int, cut: bool) -> None:
    """By log q + g, computed here word by word."""
    stream, log_q = NoiseStream(5, 2), rows(size, seed=size)
    if cut:
        log_q = log_q.masked_fill(log_q < log_q.topk(4).values[:, -1:], -math.inf)
    counters = Counters.of([stream] * 4, range(10, 14))
    found = gumbel_best_batch(log_q, counters, 6)
    for row, (position, ids) in enumerate(zip(range(10, 14), found.tolist(), strict=True)):
        lanes = torch.arange((size + 3) // 4)
        noise = gumbel(philox_words(lanes, torch.tensor(position), stream, Purpose.COUPLED)).flatten()[:size]
        order = (log_q[row] + noise).sort(descending=True)
        expected = [int(token) for value, token in zip(order.values, order.indices, strict=True) if value > -math.inf]
        expected = (expected + [-1] * 6)[:6]
        assert ids == [expected[0], *expected]


@pytest.mark.parametrize("rule", ["GREEDY", "COUPLED", "RATIO", "BLOCK"])
@pytest.mark.parametrize("entries", [0, 4, 40])
def test_looking_for_others_changes_no_draw(rule: str, entries: int) -> None:
    verification = sampling_pb2.VerificationRule.Value(f"VERIFICATION_RULE_{rule}")
    if rule in ("RATIO", "BLOCK") and not entries:
        return
    log_q = [row.unsqueeze(0) for row in rows(300)]
    made = {
        foresees: draw_many(
            [Draw(verification, NoiseStream(9), 10 + i, 3, entries, 1.0, foresees=foresees) for i in range(4)], log_q
        )
        for foresees in (False, True)
    }
    for plain, other, row in zip(made[False], made[True], log_q, strict=True):
        assert isinstance(plain, Drawn) and isinstance(other, Drawn)
        same = ("token_id", "log_probability", "entropy")
        assert [getattr(plain, name) for name in same] == [getattr(other, name) for name in same]
        assert plain.best == ()
        if rule == "COUPLED":
            assert other.best[0] == other.token_id and len(set(other.best)) == MOST_BEST
        else:
            count = min(MOST_BEST, entries) if rule in ("RATIO", "BLOCK") else MOST_BEST
            assert list(other.best) == row[0].topk(count).indices.tolist()
