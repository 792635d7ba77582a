"""The bracket of a distance contains the true one, whatever lies in the tail."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tandem.brackets import distance_bracket, distances, full_row_distance, probabilities, stack
from tandem.compression import CompressedRow, compress, full_law, law, truncate_law
from tests.maths import reference
from tests.maths.pairs import KINDS, pair

# Float64 sums of some thousand terms under a root: where the distance is 0, the root makes 1e-8 of 1e-16.
ROUNDING = 3e-8


def whole_distance(log_p: Tensor, log_q: Tensor) -> tuple[float, float]:
    """Distance and total variation of p from the law of the full fp16 row, in exact summation."""
    p, q = probabilities(log_p), full_law(log_q.to(torch.float16))
    return reference.distance(p, q), reference.variation(p, q)


def assert_bracketed(log_p: Tensor, log_q: Tensor, row: CompressedRow) -> float:
    lower, upper, variation = distance_bracket(log_p, row)
    distance, wanted = whole_distance(log_p, log_q)
    assert 0 <= lower <= upper + 1e-15 and upper <= 1 + 1e-15
    assert lower - ROUNDING <= distance <= upper + ROUNDING
    assert wanted - ROUNDING <= variation <= 1 + 1e-15
    return upper - lower


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [3, 30, 400])
def test_the_bracket_contains_the_true_distance(kind: str, size: int) -> None:
    for seed in range(25):
        log_p, log_q = pair(kind, seed, size)
        for k in {1, 2, 5, 16, 64, 128, 256, size - 1, size}:
            if 1 <= k <= size:
                assert_bracketed(log_p, log_q, compress(log_q, k))
        for mass in (0.5, 0.9, 0.999):
            assert_bracketed(log_p, log_q, compress(log_q, size, mass))


@settings(max_examples=400, deadline=None)
@given(
    p=st.lists(st.just(0.0) | st.floats(1e-12, 1), min_size=8, max_size=8).filter(any),
    q=st.lists(st.just(0.0) | st.floats(1e-12, 1) | st.just(0.1), min_size=8, max_size=8).filter(any),
    k=st.integers(1, 8),
)
def test_the_bracket_contains_the_distance_of_any_small_pair(p: list[float], q: list[float], k: int) -> None:
    log_p, log_q = (torch.tensor(law, dtype=torch.float64).log().log_softmax(-1).float() for law in (p, q))
    assert_bracketed(log_p, log_q, compress(log_q, k))


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10**6), size=st.sampled_from([12, 80]), k=st.integers(1, 12))
def test_the_bracket_contains_every_distance_that_a_tail_could_give(kind, seed: int, size: int, k: int) -> None:
    """Other tails of the same mass, no entry above the smallest one sent, are answered by the same bracket."""
    log_p, log_q = pair(kind, seed, size)
    row = compress(log_q, k)
    lower, upper, variation = distance_bracket(log_p, row)
    ids, head = law(row)
    p = probabilities(log_p)
    outside = torch.ones(size, dtype=torch.bool).index_fill(0, ids, False)
    anywhere = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    for order in (p.argsort(), p.argsort(descending=True), anywhere):
        q = torch.zeros(size, dtype=torch.float64).index_copy(0, ids, head)
        left, cap = row.tail_mass, float(head.min())
        for token in order[outside[order]].tolist():  # as much as allowed, where p is smallest, largest, anywhere
            q[token] = min(cap, left)
            left -= float(q[token])
        assert left <= 1e-6  # nothing but rounding
        q /= q.sum()
        assert lower - 1e-6 <= reference.distance(p, q) <= upper + 1e-6
        assert reference.variation(p, q) <= variation + 1e-6


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10**6), k=st.integers(1, 40))
def test_without_a_tail_the_distance_is_exact(kind: str, seed: int, k: int) -> None:
    log_p, log_q = pair(kind, seed, 40)
    row = truncate_law(log_q, k)
    lower, upper, variation = distance_bracket(log_p, row)
    p = probabilities(log_p)
    ids, head = law(row)
    q = torch.zeros(40, dtype=torch.float64).index_copy(0, ids, head)
    assert lower == upper == pytest.approx(reference.distance(p, q), abs=ROUNDING)
    assert variation == pytest.approx(reference.variation(p, q), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10**6))
def test_a_whole_row_sent_has_the_distance_of_the_full_row(kind: str, seed: int) -> None:
    log_p, log_q = pair(kind, seed, 60)
    if bool((log_q > -80).sum() == (log_q > -math.inf).sum()):  # fp32 holds every entry
        assert assert_bracketed(log_p, log_q, compress(log_q, 60)) == 0
    found = full_row_distance(log_p, log_q.to(torch.float16))
    assert found == pytest.approx(whole_distance(log_p, log_q), abs=ROUNDING)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bracket_lies_within_that_of_merged_and_disjoint_tails(kind: str) -> None:
    """The simple bounds: both tails in one bucket each, and tails without a common token."""
    for seed in range(20):
        log_p, log_q = pair(kind, seed, 200)
        row = compress(log_q, 20)
        ids, head = law(row)
        p = probabilities(log_p)
        p_tail = 1 - float(p[ids].sum())
        merged = reference.distance(torch.cat([p[ids], torch.tensor([p_tail])]).clamp(min=0),
                                    torch.cat([head, torch.tensor([row.tail_mass])]))  # fmt: skip
        apart = reference.divergence_bits(p[ids].tolist(), head.tolist()) + (p_tail + row.tail_mass) / 2
        lower, upper, _ = distance_bracket(log_p, row)
        assert lower >= merged - 2e-6
        assert upper <= math.sqrt(min(1.0, apart)) + 2e-6


def test_rows_of_a_block_are_measured_one_by_one() -> None:
    pairs = [pair(kind, 5, 120) for kind in KINDS]
    rows = [compress(log_q, 3 + 7 * index) for index, (_, log_q) in enumerate(pairs)]
    rows[2] = truncate_law(pairs[2][1], 4)
    p = probabilities(torch.stack([log_p for log_p, _ in pairs]))
    found = distances(p, stack(rows, torch.device("cpu")))
    columns = zip(found.lower.tolist(), found.upper.tolist(), found.total_variation.tolist(), strict=True)
    for (log_p, _), row, together in zip(pairs, rows, columns, strict=True):
        assert distance_bracket(log_p, row) == pytest.approx(together, abs=1e-9)


def test_equal_and_disjoint_rows_have_the_extreme_distances() -> None:
    log_q = torch.log_softmax(torch.arange(6.0), -1).to(torch.float16)
    equal = full_law(log_q).log().float()
    lower, upper, variation = distance_bracket(equal, compress(log_q.float(), 6))
    assert lower == upper == pytest.approx(0, abs=1e-3) and variation < 1e-6
    p = torch.log_softmax(torch.tensor([-math.inf, -math.inf, 0.0, 1.0]), -1)
    q = torch.log_softmax(torch.tensor([0.0, 1.0, -math.inf, -math.inf]), -1)
    assert distance_bracket(p, compress(q, 4)) == pytest.approx((1, 1, 1))
    lower, upper, _ = distance_bracket(p, compress(q, 1))
    assert lower < 1 and upper == pytest.approx(1)
