"""The largest entries of long rows are torch's."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.selection import argmax, top_values

SIZES = [1, 5, 1023, 1024, 1025, 1279, 3000]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from(SIZES), levels=st.sampled_from([2, 50, 10**6]))
def test_the_place_is_that_of_the_first_of_the_largest(seed: int, size: int, levels: int) -> None:
    """Few levels: many entries are equal."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(levels, (4, size), generator=generator).float()
    wanted = [row.index(max(row)) for row in rows.tolist()]
    assert argmax(rows).tolist() == wanted


@pytest.mark.parametrize("size", SIZES)
def test_ends_of_rows_and_impossible_entries(size: int) -> None:
    for place in {0, size // 2, size - 1}:
        rows = torch.full((2, size), -math.inf)
        rows[0, place] = -3.0
        assert argmax(rows).tolist() == [place, 0]
        rows[1, place] = math.nan
        assert argmax(rows).tolist() == [place, place]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([3, 70, 1024, 1025, 3000, 20_001]),
    count=st.sampled_from([1, 3, 64]),
    levels=st.sampled_from([2, 10**6]),
)
def test_the_largest_values_are_torchs(seed: int, size: int, count: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(levels, (2, 3, size), generator=generator).double()
    rows[0, 0, size // 2 :] = -math.inf
    count = min(count, size)
    assert torch.equal(top_values(rows, count), rows.topk(count, dim=-1).values)
