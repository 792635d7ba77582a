"""Blocks of many sequences verified together have the numbers that each has alone."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tandem.compression import truncate_law
from tandem.noise import NoiseStream
from tandem.sampling import History, NotFiniteError
from target_service.verification import (
    Block,
    BlockNumbers,
    Rule,
    Token,
    next_tokens,
    target_tokens,
    verify,
    verify_many,
)
from tests.support.steps import Session, session

EXACT = {"corrections", "target_tokens", "in_support", "log_p", "max_log_p", "target_log_p", "correction_log_p"}
# Sums over q run over the widest q of the step; a distance is the root of such a sum. The last few entries of a tensor
# are computed one by one, all others many at a time: their exponentials may differ in the last bit.
ROUNDING = {"acceptance": 1e-12, "total_variations": 1e-12, "distances_lower": 3e-8, "distances_upper": 3e-8,
            "entropies": 1e-6, "top3_entropies": 1e-6}  # fmt: skip


def block(each: Session, position: int = 7) -> Block:
    chain = each.chain()
    return Block(
        each.rule, each.candidates, each.rows, each.noise, position, chain.forbids, each.max_entries, each.mass
    )


def log_probs(each: Session) -> Tensor:
    return each.chain().log_probs(each.logits, History(each.prompt), each.candidates)


def assert_same(found: BlockNumbers | ValueError, wanted: BlockNumbers | ValueError) -> None:
    assert isinstance(found, BlockNumbers) and isinstance(wanted, BlockNumbers)
    assert all(isinstance(chance, float) for chance in found.acceptance)
    for name in EXACT:
        assert getattr(found, name) == getattr(wanted, name), name
    for name, rounding in ROUNDING.items():
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), abs=rounding, rel=0), name
    assert len(found.rows) == len(wanted.rows)
    for one, two in zip(found.rows, wanted.rows, strict=True):
        assert torch.equal(one.token_ids, two.token_ids) and torch.equal(one.log_probs, two.log_probs)
        assert one.tail_mass == pytest.approx(two.tail_mass, rel=1e-6)


seeds = st.lists(st.integers(0, 10**6), min_size=1, max_size=7)


@settings(max_examples=150, deadline=None)
@given(seeds=seeds, size=st.sampled_from([12, 300, 1030]))
def test_a_blocks_numbers_are_those_that_it_has_alone(seeds, size: int) -> None:
    sessions = [session(seed, size) for seed in seeds]
    log_p = [log_probs(each) for each in sessions]
    blocks = [block(each, position) for position, each in enumerate(sessions)]
    found = verify_many(blocks, log_p)
    for asked, rows, numbers in zip(blocks, log_p, found, strict=True):
        assert_same(numbers, verify_many([asked], [rows])[0])
        own = target_tokens(asked.rule, rows, asked.noise, asked.position)
        assert isinstance(numbers, BlockNumbers) and numbers.target_tokens == own.tolist()
        assert numbers.log_p == [float(row[x]) for row, x in zip(rows, asked.candidates, strict=False)]


@pytest.mark.parametrize("rule", Rule)
@settings(max_examples=40, deadline=None)
@given(seeds=seeds)
def test_blocks_of_one_rule_and_of_several_lengths(rule: Rule, seeds) -> None:
    sessions = [session(seed, 40, rule=rule, longest=8) for seed in seeds]
    blocks, log_p = [block(each) for each in sessions], [log_probs(each) for each in sessions]
    for asked, rows, numbers in zip(blocks, log_p, verify_many(blocks, log_p), strict=True):
        assert_same(numbers, verify_many([asked], [rows])[0])


@settings(max_examples=80, deadline=None)
@given(seeds=seeds, at=st.integers(0, 6), row=st.integers(0, 5))
def test_a_row_that_is_no_distribution_ends_its_own_block_alone(seeds, at: int, row: int) -> None:
    sessions = [session(seed, 300) for seed in seeds]
    blocks, log_p = [block(each) for each in sessions], [log_probs(each) for each in sessions]
    expected = verify_many(blocks, log_p)
    at %= len(sessions)
    log_p[at] = log_p[at].clone()
    log_p[at][row % len(log_p[at])] = math.nan
    found = verify_many(blocks, log_p)
    assert isinstance(found[at], NotFiniteError)
    for index, (numbers, wanted) in enumerate(zip(found, expected, strict=True)):
        if index != at:
            assert_same(numbers, wanted)


def test_a_block_whose_parts_do_not_fit_fails_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    log_p = torch.log_softmax(torch.randn(3, 9, generator=generator), -1)
    row = truncate_law(log_p[0], 3)
    absent = next(token for token in range(9) if token not in row.token_ids)
    noise = NoiseStream(1)
    blocks = [
        Block(Rule.RATIO, [int(row.token_ids[0])] * 2, [row] * 2, noise, 4),
        Block(Rule.RATIO, [int(row.token_ids[0]), absent], [row] * 2, noise, 4),
        Block(Rule.BLOCK, [1, 2], None, noise, 4),
        Block(Rule.GREEDY, [1], None, noise, 4),
        Block(Rule.COUPLED, [1, 9], None, noise, 4),
        Block(Rule.GREEDY, [1, 2], [row], noise, 4),
    ]
    found = verify_many(blocks, [log_p] * len(blocks))
    assert_same(found[0], verify(Rule.RATIO, log_p, blocks[0].candidates, [row] * 2, noise, 4))
    problems = [
        "candidate 1 is not in its own distribution",
        "needs the distribution",
        "1 candidates need 2 rows",
        "candidate 9 is outside",
        "1 distributions for 2",
    ]
    for failed, problem in zip(found[1:], problems, strict=True):
        assert isinstance(failed, ValueError) and problem in str(failed)


@settings(max_examples=100, deadline=None)
@given(seeds=seeds, broken=st.booleans())
def test_plain_decoding_takes_the_token_of_a_block_without_candidates(seeds, broken: bool) -> None:
    sessions = [session(seed, 300, longest=0) for seed in seeds]
    blocks, log_p = [block(each) for each in sessions], [log_probs(each) for each in sessions]
    expected = verify_many(blocks, log_p)
    if broken:
        log_p[0] = torch.full_like(log_p[0], math.nan)
    found = next_tokens(blocks, log_p)
    assert isinstance(found[0], NotFiniteError if broken else Token)
    for token, wanted in zip(found[broken:], expected[broken:], strict=True):
        assert isinstance(token, Token) and isinstance(wanted, BlockNumbers)
        assert [token.token_id] == wanted.target_tokens and [token.log_probability] == wanted.target_log_p
        assert [token.entropy] == pytest.approx(wanted.entropies, abs=1e-6)
        assert (token.row is None) == (not wanted.rows)
        if token.row is not None:
            assert torch.equal(token.row.token_ids, wanted.rows[0].token_ids)


@pytest.mark.parametrize("rule", [Rule.RATIO, Rule.BLOCK])
def test_where_nothing_is_left_over_the_correction_is_a_draw_from_p(rule: Rule) -> None:
    """p = q to the last bit: the residual is empty, and what is drawn instead has the law p."""
    log_p = torch.full((2, 8), -math.inf)
    log_p[:, 2:6] = -math.log(4)
    row = truncate_law(log_p[0], 8)
    blocks = [Block(rule, [3], [row], NoiseStream(seed), 5) for seed in range(400)]
    found = verify_many(blocks, [log_p] * len(blocks))
    assert all(isinstance(numbers, BlockNumbers) and numbers.acceptance == [1.0] for numbers in found)
    corrections = [numbers.corrections[0] for numbers in found if isinstance(numbers, BlockNumbers)]
    counts = [corrections.count(token) for token in range(8)]
    assert sum(counts[2:6]) == 400 and min(counts[2:6]) > 60  # 4.6 standard deviations


def test_every_column_is_compared() -> None:
    """By the tests of this file."""
    assert {each.name for each in dataclasses.fields(BlockNumbers)} == EXACT | set(ROUNDING) | {"rows"}
