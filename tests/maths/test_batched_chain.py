"""Rows of many sequences through their chains together are those that each has alone, to the last bit."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tandem.sampling import History, SamplingChain, SamplingParams, log_probs_batch, not_finite
from tests.support.steps import Session, histories, session

seeds = st.lists(st.integers(0, 10**6), min_size=1, max_size=6)


def together(sessions: list[Session], logits: list[Tensor]) -> list[Tensor]:
    candidates = [each.candidates for each in sessions]
    return log_probs_batch([each.chain() for each in sessions], logits, histories(sessions), candidates)


@settings(max_examples=150, deadline=None)
@given(seeds=seeds, size=st.sampled_from([12, 300, 1030]), side_by_side=st.booleans())
def test_rows_are_those_that_each_sequence_has_alone(seeds, size: int, side_by_side: bool) -> None:
    sessions = [session(seed, size) for seed in seeds]
    logits = [each.logits for each in sessions]
    if side_by_side:  # as a model gives them
        logits = list(torch.cat(logits).split([len(rows) for rows in logits]))
    before = [rows.clone() for rows in logits]
    found = together(sessions, logits)
    for each, rows, log_p in zip(sessions, logits, found, strict=True):
        assert torch.equal(log_p, each.chain().log_probs(rows, History(each.prompt), each.candidates))
    for rows, unchanged in zip(logits, before, strict=True):
        assert torch.equal(rows, unchanged)


@settings(max_examples=60, deadline=None)
@given(seeds=seeds, at=st.integers(0, 5), bad=st.sampled_from([math.nan, math.inf]), place=st.integers(0, 299))
def test_a_row_that_is_no_distribution_is_marked_and_harms_no_other(seeds, at: int, bad: float, place: int) -> None:
    sessions = [session(seed, 300) for seed in seeds]
    at %= len(sessions)
    expected = together(sessions, [each.logits for each in sessions])
    sessions[at].logits[0, place] = bad
    found = together(sessions, [each.logits for each in sessions])
    bias = sessions[at].params.logit_bias.get(place)
    assert bool(not_finite(found[at])[0]) or bias == -math.inf
    for index, (log_p, unharmed) in enumerate(zip(found, expected, strict=True)):
        if index != at:
            assert torch.equal(log_p, unharmed)


@pytest.mark.parametrize("top_p", [0.5, 0.99])
def test_a_wide_nucleus_changes_no_narrow_one(top_p: float) -> None:
    """What lies beyond the first look is searched for in the rows that need it only."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 5000, generator=generator) * torch.tensor([[0.01], [6.0], [0.3], [9.0]])
    chain = SamplingChain(SamplingParams(temperature=1.0, top_p=top_p), 5000)
    rows = list(logits.split(1))
    found = log_probs_batch([chain] * 4, rows, [History(())] * 4, [()] * 4)
    widths = [int((row > -math.inf).sum()) for row in found]
    assert max(widths) > 256 and min(widths) < 256
    for row, log_p in zip(rows, found, strict=True):
        assert torch.equal(log_p, chain.log_probs(row, History(())))


def test_results_of_like_chains_lie_side_by_side() -> None:
    chain = SamplingChain(SamplingParams(), 9)
    one, two = log_probs_batch([chain] * 2, [torch.zeros(2, 9), torch.ones(1, 9)], [History(())] * 2, [(1,), ()])
    assert two.data_ptr() == one.data_ptr() + one.numel() * one.element_size()
