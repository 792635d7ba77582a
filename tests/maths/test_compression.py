"""Rows cut to their head: what is kept, what is sent, and that both sides read the same numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.brackets import stack
from tandem.compression import (
    CompressedRow,
    compress,
    full_law,
    full_row_from_bytes,
    half_from_bytes,
    half_to_bytes,
    law,
    truncate_law,
)
from tests.maths.pairs import KINDS, pair

SIZE = 90
rows = st.builds(lambda kind, seed: pair(kind, seed, SIZE)[1], st.sampled_from(KINDS), st.integers(0, 10**6))
entries = st.sampled_from([1, 2, 7, 40, SIZE - 1, SIZE, SIZE + 1, 2**31])


def sent(row: CompressedRow, vocabulary_size: int = SIZE) -> CompressedRow:
    return CompressedRow.from_bytes(*row.to_bytes(), row.tail_mass, vocabulary_size)


def same(one: CompressedRow, two: CompressedRow) -> bool:
    return (
        torch.equal(one.token_ids, two.token_ids)
        and torch.equal(one.log_probs.view(torch.int16), two.log_probs.view(torch.int16))
        and one.tail_mass == two.tail_mass
    )


@settings(max_examples=200, deadline=None)
@given(log_q=rows, k=entries, mass=st.sampled_from([0.0, 0.5, 0.9, 0.999, 1.0]), cut=st.booleans())
def test_both_sides_read_the_same_q_bit_by_bit(log_q, k: int, mass: float, cut: bool) -> None:
    row = truncate_law(log_q, k) if cut else compress(log_q, k, mass)
    other = sent(row)
    assert same(row, other)
    for one, two in zip(law(row), law(other), strict=True):
        assert torch.equal(one, two)


@settings(max_examples=100, deadline=None)
@given(log_qs=st.lists(rows, min_size=1, max_size=5), k=st.sampled_from([1, 5, 40, SIZE]))
def test_the_verifier_reads_the_q_that_the_draft_drew_from(log_qs, k: int) -> None:
    """Bit by bit, in a block whose rows have supports of different sizes."""
    drafted = [truncate_law(log_q, k) for log_q in log_qs]
    heads = stack([sent(row) for row in drafted], torch.device("cpu"))
    for index, row in enumerate(drafted):
        ids, q = law(row)
        assert torch.equal(heads.token_ids[index, : len(ids)], ids) and torch.equal(heads.q[index, : len(q)], q)
        assert heads.listed[index].tolist() == [1.0] * len(q) + [0.0] * (heads.q.shape[1] - len(q))
        assert float(heads.least[index]) == float(q.min()) and float(heads.tail_mass[index]) == 0


@settings(max_examples=200, deadline=None)
@given(log_q=rows, k=entries)
def test_under_ratio_rules_the_law_is_whole_and_has_no_tail(log_q, k: int) -> None:
    row = truncate_law(log_q, k)
    ids, q = law(row)
    assert row.tail_mass == 0
    assert float(q.sum()) == pytest.approx(1, abs=1e-15 * len(q) + 1e-15)
    assert len(ids) <= min(k, SIZE) and len(set(ids.tolist())) == len(ids)
    assert bool((q > 0).all()) and bool((q[1:] <= q[:-1]).all())
    head = log_q.double().exp()[ids]
    # fp16 keeps 11 bits, of logarithms that reach some hundreds; what is far below is lost in them.
    close = q > 1e-7
    torch.testing.assert_close(q[close], (head / head.sum())[close], rtol=0.01, atol=0)
    assert float(log_q[ids].min()) >= float(log_q.topk(min(k, SIZE)).values[-1])


@settings(max_examples=200, deadline=None)
@given(log_q=rows, k=entries, mass=st.sampled_from([0.0, 0.3, 0.9, 0.999, 1.0]))
def test_head_and_tail_are_those_of_the_full_row(log_q, k: int, mass: float) -> None:
    row = compress(log_q, k, mass)
    whole = full_law(log_q.to(torch.float16))
    ids, q = law(row)
    torch.testing.assert_close(q, whole[ids], rtol=1e-5, atol=1e-12)
    outside = whole.index_fill(0, ids, 0.0)
    assert row.tail_mass == pytest.approx(float(outside.sum()), rel=1e-5, abs=1e-30)
    assert float(q.sum()) + row.tail_mass == pytest.approx(1, abs=1e-14)
    assert float(outside.max()) <= float(q.min()) * (1 + 1e-5)
    assert row.tail_mass == torch.tensor(row.tail_mass, dtype=torch.float32).item()


@settings(max_examples=200, deadline=None)
@given(log_q=rows, k=entries, mass=st.floats(0.01, 0.9999))
def test_the_head_is_the_smallest_that_has_the_mass_asked_for(log_q, k: int, mass: float) -> None:
    row, most = compress(log_q, k, mass), compress(log_q, k)
    assert torch.equal(row.token_ids, most.token_ids[: len(row.token_ids)])
    if len(row.token_ids) < len(most.token_ids):
        assert 1 - row.tail_mass >= mass - 1e-6
    if len(row.token_ids) > 1:
        q = law(row)[1]
        assert float(q[:-1].sum()) < mass + 1e-6


@settings(max_examples=200, deadline=None)
@given(log_q=rows, k=entries)
def test_the_tail_is_0_exactly_where_nothing_is_left_out(log_q, k: int) -> None:
    row = compress(log_q, k)
    # Of what fp32 can hold: entries under 1e-38 are as good as none.
    support = int((log_q.to(torch.float16) > -87).sum())
    if len(row.token_ids) >= support:
        assert row.tail_mass <= 1e-37
    else:
        assert row.tail_mass > 0


def test_rounding_is_that_of_half_precision() -> None:
    log_q = torch.log_softmax(torch.tensor([0.0, -1.0, -9.3, -20.1]), -1)
    row = compress(log_q, 4)
    assert row.log_probs.dtype == torch.float16
    assert row.log_probs.tolist() == log_q.to(torch.float16).tolist()
    worst = max(abs(math.expm1(float(a) - float(b))) for a, b in zip(row.log_probs, log_q, strict=True))
    assert 1e-4 < worst < 0.01  # a law before rounding is another law


def test_a_sure_row_is_one_entry() -> None:
    log_q = torch.tensor([-math.inf, 0.0, -math.inf])
    for row in (compress(log_q, 3), truncate_law(log_q, 3)):
        assert (row.token_ids.tolist(), row.log_probs.tolist(), row.tail_mass) == ([1], [0.0], 0.0)
        assert law(row)[1].tolist() == [1.0]


@pytest.mark.parametrize("cut", [compress, truncate_law])
def test_rows_have_at_least_one_entry(cut) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        cut(torch.zeros(1), 0)


@settings(max_examples=100, deadline=None)
@given(log_q=rows)
def test_a_full_row_survives_the_wire(log_q) -> None:
    half = log_q.to(torch.float16)
    data = half_to_bytes(log_q)
    assert len(data) == 2 * SIZE
    assert torch.equal(full_row_from_bytes(data, SIZE), half)
    assert float(full_law(half).sum()) == pytest.approx(1, abs=1e-14)
    assert torch.equal(half_from_bytes(data), half)


def test_bytes_are_little_endian() -> None:
    row = CompressedRow(torch.tensor([258, 70_000]), torch.tensor([-1.0, -2.0], dtype=torch.float16), 0.5)
    assert row.to_bytes() == (bytes([2, 1, 0, 0, 0x70, 0x11, 1, 0]), bytes([0, 0xBC, 0, 0xC0]))


@pytest.mark.parametrize(
    ("ids", "logs", "tail", "problem"),
    [
        ([1, 2], [-1.0], 0.0, "bytes of token ids"),
        ([], [], 1.0, "no entries"),
        ([1, 9], [-1.0, -2.0], 0.0, "outside the vocabulary"),
        ([3, 3], [-1.0, -2.0], 0.0, "twice"),
        ([1, 2], [-2.0, -1.0], 0.0, "not rise"),
        ([1, 2], [0.5, -1.0], 0.0, "at most 0"),
        ([1, 2], [-1.0, -math.inf], 0.0, "finite"),
        ([1, 2], [-1.0, -701.0], 0.0, "finite"),
        ([1, 2], [math.nan, -1.0], 0.0, "log-probabilities"),
        ([1], [math.nan], 0.0, "log-probabilities"),
        ([1], [-1.0], 1.1, "tail mass"),
        ([1], [-1.0], -0.1, "tail mass"),
        ([1], [-1.0], math.nan, "tail mass"),
    ],
)
def test_what_is_no_row_is_refused(ids: list[int], logs: list[float], tail: float, problem: str) -> None:
    id_bytes = b"".join(each.to_bytes(4, "little") for each in ids)
    log_bytes = half_to_bytes(torch.tensor(logs))
    with pytest.raises(ValueError, match=problem):
        CompressedRow.from_bytes(id_bytes, log_bytes, tail, 9)


@pytest.mark.parametrize("row", [[-1.0], [-1.0, math.nan], [-1.0, 0.1], [-math.inf, -math.inf], [-701.0, -800.0]])
def test_what_is_no_full_row_is_refused(row: list[float]) -> None:
    with pytest.raises(ValueError):
        full_row_from_bytes(half_to_bytes(torch.tensor(row)), 2)
    with pytest.raises(ValueError):
        full_row_from_bytes(b"abc", 2)
