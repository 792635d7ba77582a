"""Every sequence finds in its blocks what it wrote there, whatever others do with theirs."""

from __future__ import annotations

import pytest

from tandem.inference.blocks import BlockPool
from tandem.inference.table import BLOCK_SIZE, BlockTable
from tests.inference.paging import SETTINGS, Tables

TestTables = Tables.TestCase
TestTables.settings = SETTINGS


def table(pool: BlockPool, copies: list[tuple[int, int, int]] | None = None) -> BlockTable:
    return BlockTable(pool, lambda *arguments: copies.append(arguments) if copies is not None else None)


def filled(pool: BlockPool, text: list[int], copies: list[tuple[int, int, int]] | None = None) -> BlockTable:
    """A table with the entries of `text`, which others can find."""
    made = table(pool, copies)
    made.match(text, len(text) - 1)
    made.reserve(len(text) - made.length)
    made.advance(len(text) - made.length)
    made.name(text, len(text))
    return made


def test_a_text_that_begins_alike_takes_the_blocks_of_the_first() -> None:
    pool = BlockPool(16)
    first = filled(pool, [1] * 40)
    second = table(pool)
    second.match([1] * 39 + [2] * 20, 58)
    assert (second.length, second.blocks) == (32, first.blocks[:2])
    shared = list(second.blocks)
    first.free()
    assert pool.held == 2
    second.free()
    assert (pool.held, pool.idle) == (0, 2)
    assert filled(pool, [1] * 40).blocks[:2] == shared
    assert (pool.held, pool.idle) == (3, 0)


def test_what_is_matched_leaves_the_tokens_whose_logits_are_wanted() -> None:
    pool = BlockPool(16)
    filled(pool, [1] * 64)
    for most, found in ((64, 64), (63, 48), (48, 48), (47, 32), (15, 0)):
        other = table(pool)
        other.match([1] * 64, most)
        assert other.length == found


def test_the_same_words_after_another_beginning_are_not_taken() -> None:
    pool = BlockPool(16)
    filled(pool, [1] * 16 + [3] * 16)
    other = table(pool)
    other.match([2] * 16 + [3] * 16, 32)
    assert other.length == 0
    filled(pool, [2] * 16 + [4] * 16)
    other.match([2] * 16 + [3] * 16, 32)
    assert other.length == 16


def test_blocks_are_not_found_before_they_are_named_nor_after_they_are_written_to() -> None:
    pool = BlockPool(16)
    first = table(pool)
    first.reserve(32)
    first.advance(32)
    other = table(pool)
    other.match([1] * 32, 32)
    assert other.length == 0
    first.name([1] * 32, 32)
    first.truncate(20)
    first.reserve(1)
    other.match([1] * 32, 32)
    assert other.length == 16


def test_tokens_that_may_be_rejected_are_not_named_until_they_are_kept() -> None:
    pool = BlockPool(16)
    first, text = table(pool), [1] * 34
    first.reserve(34)
    first.advance(34)
    first.name(text, 34 - 5)
    other = table(pool)
    other.match(text, 34)
    assert other.length == 16
    first.name(text, 34)
    other.match(text, 34)
    assert other.length == 32


def test_a_fork_shares_all_blocks_and_copies_one_when_it_is_written_to() -> None:
    pool, copies = BlockPool(16), []
    first = filled(pool, [1] * 40, copies)
    second = first.fork()
    assert pool.held == 3
    assert (second.needed(1), first.needed(8), first.needed(9)) == (1, 1, 2)
    second.reserve(30)
    assert copies == [(first.blocks[2], second.blocks[2], 8)]
    assert second.blocks[:2] == first.blocks[:2]
    first.reserve(1)  # it has the block for itself now
    assert len(copies) == 1
    assert pool.held == 3 + 3


def test_a_fork_at_the_end_of_a_block_copies_nothing() -> None:
    pool, copies = BlockPool(16), []
    first = filled(pool, [1] * 32, copies)
    second = first.fork()
    second.reserve(5)
    first.reserve(5)
    assert copies == []
    assert first.blocks[:2] == second.blocks[:2] and first.blocks[2] != second.blocks[2]


def test_a_fork_in_a_full_pool_needs_the_block_that_it_would_copy() -> None:
    pool = BlockPool(3)
    first = filled(pool, [1] * 40)
    second = first.fork()
    with pytest.raises(ValueError, match="1 entries need 1 blocks, 0 are available"):
        second.reserve(1)
    first.free()
    second.reserve(1)
    assert pool.held == 3


@pytest.mark.parametrize("length", [-1, 41])
def test_truncating_to_what_is_not_there_is_refused(length: int) -> None:
    made = filled(BlockPool(4), [1] * 40)
    with pytest.raises(ValueError, match=f"cannot cut 40 entries to {length}"):
        made.truncate(length)
    assert (made.length, len(made.blocks)) == (40, 3)


def test_of_a_text_that_nobody_holds_the_end_is_given_up_first() -> None:
    """Its beginning is what others may share, and without it the end cannot be found."""
    pool = BlockPool(8)
    filled(pool, [1] * 16 * 8).free()
    for taken in range(1, 8):
        pool.release(pool.allocate(taken))
        other = table(pool)
        other.match([1] * 16 * 8, 16 * 8)
        # An eighth of the pool is kept clear beside what is asked for.
        assert other.length == 16 * (8 - min(8, taken + 1))
        other.free()


def test_a_table_that_grows_beside_others_stays_in_one_extent_while_there_is_room() -> None:
    pool = BlockPool(64)
    tables = [table(pool) for _ in range(4)]
    for _ in range(16 * 7):
        for one in tables:
            one.reserve(1)
            one.advance(1)
    assert [len(list(one.extents(one.length))) for one in tables] == [1, 1, 1, 1]


def test_a_table_in_a_pool_of_holes_takes_the_largest_first() -> None:
    pool = BlockPool(16)
    pool.release(block for block in pool.allocate(16) if block in (1, 4, 5, 8, 9, 10, 11, 14))
    one = table(pool)
    one.reserve(8 * BLOCK_SIZE)
    one.advance(8 * BLOCK_SIZE)
    assert list(one.extents(6 * BLOCK_SIZE)) == [(8 * 16, 12 * 16), (4 * 16, 6 * 16)]
    assert len(list(one.extents(one.length))) == 4


def test_a_table_goes_on_where_it_was_cut() -> None:
    """Drafted tokens fill a block and are rejected, over and over: the text stays in one extent."""
    pool = BlockPool(64)
    one = filled(pool, [1] * 40)
    for turn in range(10):
        one.reserve(30)
        one.advance(30)
        one.name([1] * 40 + [turn + 2] * 30, 70)
        one.truncate(40)
    one.reserve(60)
    one.advance(60)
    assert len(list(one.extents(100))) == 1
    assert pool.idle == 0


def test_text_that_is_cut_off_is_found_again_where_it_was_to_be_kept_or_is_another_s() -> None:
    text = [1] * 64
    for keep, expected in ((True, 64), (False, 32)):
        pool = BlockPool(16)
        first = filled(pool, text)
        first.truncate(32, keep=keep)
        other = table(pool)
        other.match(text, 64)
        assert other.length == expected
    pool = BlockPool(16)
    filled(pool, text).free()
    found = table(pool)
    found.match(text, 64)
    found.truncate(0)  # it had not filled them itself
    found.match(text, 64)
    assert found.length == 64
    beside = found.fork()
    beside.truncate(0)
    found.truncate(16)
    beside.match(text, 64)
    assert beside.length == 64
