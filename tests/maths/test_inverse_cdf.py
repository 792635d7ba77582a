"""Draws by inversion."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.noise import Purpose
from tandem.sampling import draw, draw_log, inverse_cdf
from tests.statistics.goodness import fits
from tests.statistics.seeds import uniforms

LAST = 1 - 2**-53
edges = st.sampled_from([0.0, 5e-324, 2**-53, 0.5, LAST])
weight = st.just(0.0) | st.floats(0, 1) | st.sampled_from([1e-300, 5e-324, 1.0, 1e300])
weights = st.lists(weight, min_size=1, max_size=12).filter(lambda row: 0 < math.fsum(row))


def scattered(size: int, places: list[int], masses: list[float]) -> torch.Tensor:
    row = torch.zeros(size, dtype=torch.float64)
    row[torch.tensor(places)] = torch.tensor(masses, dtype=torch.float64)
    return row


@settings(max_examples=500, deadline=None)
@given(row=weights, u=edges | st.floats(0, LAST))
def test_a_token_of_probability_0_is_never_drawn(row: list[float], u: float) -> None:
    found = int(inverse_cdf(torch.tensor(row, dtype=torch.float64), torch.tensor(u, dtype=torch.float64)))
    assert row[found] > 0


@settings(max_examples=200, deadline=None)
@given(
    size=st.integers(1024, 1500),
    u=edges | st.floats(0, LAST),
    mass=st.sampled_from([1.0, 1e-3, 1e-12, 1e-300]),
    data=st.data(),
)
def test_a_token_of_probability_0_is_never_drawn_from_a_long_row(size: int, u: float, mass: float, data) -> None:
    places = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=5, unique=True))
    row = scattered(size, places, [1.0] + [mass] * (len(places) - 1))
    assert int(inverse_cdf(row, torch.tensor(u))) in places


@pytest.mark.parametrize("size", [1, 3, 255, 256, 1023, 1024, 1025, 1279, 1280, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edge_uniforms_draw_the_first_and_the_last_token_of_the_support(size: int, dtype: torch.dtype) -> None:
    u = torch.tensor([0.0, LAST], dtype=torch.float64)
    for first, last in itertools.product({0, size // 2, size - 1}, repeat=2):
        row = scattered(size, [first, last], [0.25, 0.75]).to(dtype).expand(2, -1)
        assert inverse_cdf(row, u).tolist() == [min(first, last), max(first, last)]


@settings(max_examples=200, deadline=None)
@given(
    row=st.lists(st.integers(0, 9), min_size=1, max_size=9).filter(any),
    part=st.integers(0, 10**6 - 1),
    repeats=st.sampled_from([1, 300]),
)
def test_a_draw_is_the_entry_that_u_falls_in(row: list[int], part: int, repeats: int) -> None:
    # Whole numbers over a power of two, so that the reference is exact; 300 times the row is a long one.
    whole = row * repeats
    total, below, wanted = sum(whole), 0, 0
    u = (part + 0.5) / 2**20
    for wanted, weight in enumerate(whole):  # noqa: B007 - the index is the answer
        below += weight
        if u * total < below:
            break
    assert int(inverse_cdf(torch.tensor(whole, dtype=torch.float64), torch.tensor(u, dtype=torch.float64))) == wanted


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.sampled_from([7, 1024, 2500]), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_rows_do_not_depend_on_their_neighbours_or_on_the_sum(seed: int, size: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(5, size, generator=generator, dtype=torch.float64) ** 8
    u = torch.rand(5, generator=generator, dtype=torch.float64)
    together = inverse_cdf(rows, u).tolist()
    assert together == [int(inverse_cdf(row, each)) for row, each in zip(rows, u, strict=True)]
    assert together == inverse_cdf(rows * scale, u).tolist()


@pytest.mark.parametrize("size", [6, 1500])
def test_draws_have_the_law_of_the_weights(size: int) -> None:
    samples = 40_000
    places = [0, 3, 5] if size == 6 else [0, 255, 256, 1030, 1499]
    law = scattered(size, places, [1.0 + index for index in range(len(places))])
    u = uniforms(np.arange(samples), Purpose.TARGET, 1)
    drawn = torch.cat([inverse_cdf(law.expand(len(part), -1), part) for part in u.split(4000)])
    assert fits(drawn.bincount(minlength=size), law / law.sum())  # error rate 1e-6


@pytest.mark.parametrize("row", [[0.0, 0.0], [-1.0, 2.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_what_is_no_weights_is_refused(row: list[float]) -> None:
    with pytest.raises(ValueError, match="draw takes probabilities"):
        draw(torch.tensor(row), 0.5)


def test_a_draw_from_logarithms_is_that_from_probabilities() -> None:
    row = torch.tensor([0.2, 0.0, 0.5, 0.3], dtype=torch.float64)
    for u in (0.0, 0.1, 0.3, 0.69, 0.71, LAST):
        assert draw_log(row.log(), u) == draw(row, u)
