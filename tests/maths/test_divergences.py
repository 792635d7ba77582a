"""Entropy and distances against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.divergences import divergence_terms, entropy, js_distance, js_divergence, top3_entropy, total_variation
from tests.maths import reference

mass = st.just(0.0) | st.floats(0, 1) | st.sampled_from([1e-300, 1e-30, 1e-9, 1.0])


@st.composite
def laws(draw: st.DrawFn, count: int = 2) -> list[torch.Tensor]:
    """`count` laws over one vocabulary, zeros and extremes among them; some share entries."""
    size = draw(st.integers(1, 12))
    rows = st.lists(mass, min_size=size, max_size=size).filter(lambda row: math.fsum(row) > 1e-290)
    found = [torch.tensor(draw(rows), dtype=torch.float64) for _ in range(count)]
    if draw(st.booleans()):
        found[-1] = torch.lerp(found[0], found[-1], draw(st.sampled_from([0.0, 1e-12, 1e-6, 0.3])))
    return [row / row.sum() for row in found]


@settings(max_examples=400, deadline=None)
@given(pair=laws())
def test_the_divergence_is_its_definition(pair: list[torch.Tensor]) -> None:
    p, q = pair
    wanted = reference.divergence_bits(p.tolist(), q.tolist())
    assert float(js_divergence(p, q)) == pytest.approx(wanted, abs=1e-15, rel=1e-9)
    assert float(js_distance(p, q)) == pytest.approx(math.sqrt(max(0.0, wanted)), abs=1e-7)
    assert float(total_variation(p, q)) == pytest.approx(reference.variation(p, q), abs=1e-15)


@settings(max_examples=200, deadline=None)
@given(pair=laws())
def test_distances_are_symmetric_and_lie_in_the_unit_interval(pair: list[torch.Tensor]) -> None:
    p, q = pair
    for measure in (js_divergence, js_distance, total_variation):
        assert measure(p, q) == measure(q, p)
        assert 0 <= float(measure(p, q)) <= 1 + 1e-15
        assert measure(p, p) == 0
    assert float(js_distance(p, q)) <= 1
    assert bool((divergence_terms(p, q) >= 0).all())


@settings(max_examples=200, deadline=None)
@given(triple=laws(count=3))
def test_the_distance_obeys_the_triangle_inequality(triple: list[torch.Tensor]) -> None:
    p, q, r = triple
    assert float(js_distance(p, r)) <= float(js_distance(p, q) + js_distance(q, r)) + 1e-7


@settings(max_examples=200, deadline=None)
@given(pair=laws())
def test_the_divergence_lies_between_its_bounds_by_total_variation(pair: list[torch.Tensor]) -> None:
    p, q = pair
    variation = float(total_variation(p, q))
    assert variation**2 / (2 * math.log(2)) - 1e-12 <= float(js_divergence(p, q)) <= variation + 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_disjoint_laws_are_at_distance_1(dtype: torch.dtype) -> None:
    p = torch.tensor([0.1, 0.2, 0.7, 0.0, 0.0, 0.0], dtype=dtype)
    q = torch.tensor([0.0, 0.0, 0.0, 1e-30, 0.4, 0.6], dtype=dtype)
    for measure in (js_divergence, js_distance, total_variation):
        assert float(measure(p, q)) == pytest.approx(1, abs=1e-6)
        assert float(measure(p, q)) <= 1 + 1e-7


def test_hand_computed_distances() -> None:
    p, q = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).double()
    assert float(js_divergence(p, q)) == pytest.approx(1.5 - 0.75 * math.log2(3))
    # The least distance at which p(x) = 0 while q(x) = a: .07 at .01, .16 at .05, .23 at .10, .33 at .20.
    for a, wanted in ((0.01, 0.07), (0.05, 0.16), (0.10, 0.23), (0.20, 0.33)):
        found = js_distance(torch.tensor([0.0, 1.0]).double(), torch.tensor([a, 1 - a]).double())
        assert float(found) == pytest.approx(wanted, abs=0.005)


@settings(max_examples=200, deadline=None)
@given(pair=laws())
def test_entropy_is_its_definition_in_nats(pair: list[torch.Tensor]) -> None:
    for law in pair:
        assert float(entropy(law.log())) == pytest.approx(reference.entropy_nats(law.tolist()), abs=1e-12)
        top = torch.tensor(sorted(law.tolist())[-3:], dtype=torch.float64)
        wanted = reference.entropy_nats((top / top.sum()).tolist())
        assert float(top3_entropy(law.log())) == pytest.approx(wanted, abs=1e-9)


def test_entropy_of_uniform_and_of_sure_rows() -> None:
    rows = torch.tensor([[0.25] * 4, [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]]).log()
    assert entropy(rows).tolist() == pytest.approx([math.log(4), 0, math.log(2)])
    assert top3_entropy(rows).tolist() == pytest.approx([math.log(3), 0, math.log(2)])
    assert entropy(rows).dtype == torch.float32
    assert entropy(torch.zeros(2, 3, 1)).shape == (2, 3)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.sampled_from([100, 50_000]))
def test_entropy_of_a_long_fp32_row_is_right_to_five_digits(seed: int, size: int) -> None:
    log_p = torch.log_softmax(torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 4, -1)
    wanted = float(entropy(torch.log_softmax(log_p.double(), -1)))
    assert float(entropy(log_p)) == pytest.approx(wanted, rel=1e-5, abs=1e-5)
