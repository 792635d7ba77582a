"""A block is free, held or idle; those that are idle go in the order in which they were left."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tandem.inference.blocks import BlockPool

_KEYS = st.integers(0, 5).map(lambda number: b"%d" % number)


class Pools(RuleBasedStateMachine):
    """The model: how many hold each block, what it contains, and the idle ones in the order in which they were left."""

    @initialize(count=st.integers(1, 24))
    def start(self, count: int) -> None:
        self.pool = BlockPool(count)
        self.holders: dict[int, int] = {}
        self.keys: dict[bytes, int] = {}
        self.idle: list[int] = []

    @rule(count=st.integers(0, 26), data=st.data())
    def allocate(self, count: int, data: st.DataObject) -> None:
        after = data.draw(st.none() | st.integers(0, self.pool.count - 1))
        available = self.pool.count - len(self.holders)
        assert self.pool.can_allocate(count) == (count <= available)
        if count > available:
            with pytest.raises(ValueError, match=f"{count} blocks were asked for, {available} are available"):
                self.pool.allocate(count, after)
            return
        taken = self.pool.allocate(count, after)
        assert len(set(taken)) == len(taken) == count
        assert self.holders.keys().isdisjoint(taken)
        evicted = set(self.idle[: len(self.idle) - self.pool.idle])  # those that were left first
        self.idle = self.idle[len(evicted) :]
        assert set(self.idle).isdisjoint(taken)
        self.keys = {key: block for key, block in self.keys.items() if block not in evicted}
        self.holders.update(dict.fromkeys(taken, 1))

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def retain(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(self.holders)))
        self.pool.retain(block)
        self.holders[block] += 1

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        blocks = data.draw(st.lists(st.sampled_from(sorted(self.holders)), unique=True))
        self.pool.release(blocks)
        for block in blocks:
            self.holders[block] -= 1
            if not self.holders[block]:
                del self.holders[block]
                if block in self.keys.values():
                    self.idle.append(block)

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), key=_KEYS)
    def name(self, data: st.DataObject, key: bytes) -> None:
        block = data.draw(st.sampled_from(sorted(self.holders)))
        self.pool.name(block, key)
        if key not in self.keys:
            self.keys = {other: held for other, held in self.keys.items() if held != block} | {key: block}

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(self.holders)))
        self.pool.forget(block)
        self.keys = {key: held for key, held in self.keys.items() if held != block}

    @rule()
    def fill_and_leave(self) -> None:
        """Somebody takes all that is there, fills it and goes: idle blocks all over."""
        self.pool.forget_idle()
        blocks = self.pool.allocate(self.pool.available)
        self.keys = {key: block for key, block in self.keys.items() if block in self.holders}
        for block in blocks:
            self.pool.name(block, b"filled %d" % block)
            self.keys[b"filled %d" % block] = block
        self.pool.release(blocks)
        self.idle = blocks

    @rule(key=_KEYS | st.integers(0, 23).map(lambda number: b"filled %d" % number))
    def take(self, key: bytes) -> None:
        block = self.pool.take(key)
        assert block == self.keys.get(key)
        if block is not None:
            self.holders[block] = self.holders.get(block, 0) + 1
            self.idle = [other for other in self.idle if other != block]

    @rule()
    def forget_idle(self) -> None:
        self.pool.forget_idle()
        self.keys = {key: block for key, block in self.keys.items() if block in self.holders}
        self.idle = []

    @rule(data=st.data())
    def what_is_not_held_cannot_be_used(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from([b for b in range(self.pool.count) if b not in self.holders] or [None]))
        if block is not None:
            for use in (lambda: self.pool.retain(block), lambda: self.pool.name(block, b"0")):
                with pytest.raises(ValueError, match=f"block {block} is not held"):
                    use()
            with pytest.raises(ValueError, match=f"block {block} is not held"):
                self.pool.release([block])

    @invariant()
    def numbers_agree(self) -> None:
        assert self.pool.held == len(self.holders)
        assert self.pool.idle == len(self.idle)
        assert self.pool.available == self.pool.count - len(self.holders)
        for block in range(self.pool.count):
            assert self.pool.holders(block) == self.holders.get(block, 0)
            assert self.pool.is_shared(block) == (self.holders.get(block, 0) > 1)


TestPools = Pools.TestCase
TestPools.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def _evict_the_last(self: BlockPool) -> None:
    block, _ = self._idle.popitem()
    self.forget(block)
    self._set_free(block)


def _evict_but_keep_the_key(self: BlockPool) -> None:
    block, _ = self._idle.popitem(last=False)
    self._set_free(block)


def _take_without_leaving_idle(self: BlockPool, key: bytes) -> int | None:
    block = self._by_key.get(key)
    if block is not None:
        self._holders[block] += 1
    return block


def _name_anew(self: BlockPool, block: int, key: bytes) -> None:
    self._by_key[key] = block
    self._keys[block] = key


def _clear_nothing(self: BlockPool, count: int) -> None:
    """Free blocks do not suffice then, though idle ones are counted."""


@pytest.mark.parametrize(
    "name, replacement",
    [
        ("_evict", _evict_the_last),
        ("_evict", _evict_but_keep_the_key),
        ("take", _take_without_leaving_idle),
        ("name", _name_anew),
        ("_clear", _clear_nothing),
        ("can_allocate", lambda self, count: count <= self._free_count),
        ("held", property(lambda self: sum(self._holders))),
        ("_set_free", lambda self, block: self._free.__setitem__(block, 1)),
    ],
)
def test_a_mistake_is_seen(monkeypatch: pytest.MonkeyPatch, name: str, replacement: Any) -> None:
    monkeypatch.setattr(BlockPool, name, replacement)
    search = settings(max_examples=500, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
    try:
        run_state_machine_as_test(Pools, settings=search)
    except (Exception, pytest.fail.Exception):
        return
    raise AssertionError("the model of pools did not see it")


def test_a_pool_has_blocks() -> None:
    with pytest.raises(ValueError, match="at least one block, not 0"):
        BlockPool(0)


def test_blocks_are_handed_out_in_runs_behind_the_one_before() -> None:
    pool = BlockPool(32)
    first = pool.allocate(4)
    assert first == list(range(first[0], first[0] + 4))
    assert pool.allocate(3, after=first[-1]) == [first[-1] + 1, first[-1] + 2, first[-1] + 3]


def test_whoever_begins_leaves_room_on_both_sides() -> None:
    """Each of several that grow by turns can follow itself for its share of the pool."""
    pool = BlockPool(64)
    ends = [pool.allocate(1)[0] for _ in range(4)]
    for _ in range(6):
        for index, end in enumerate(ends):
            [ends[index]] = pool.allocate(1, after=end)
            assert ends[index] == end + 1


def test_the_largest_run_is_taken_first_and_all_holes_at_the_end() -> None:
    pool = BlockPool(12)
    holes = [1, 3, 4, 7, 8, 9, 11]
    pool.release(block for block in pool.allocate(12) if block in holes)
    assert pool.allocate(7) == [7, 8, 9, 3, 4, 1, 11]


def test_idle_blocks_give_way_before_the_pool_is_full_so_that_runs_are_found() -> None:
    """An eighth is kept clear; what fits beside it keeps its content."""
    pool = BlockPool(32)
    blocks = OrderedDict((block, b"%d" % block) for block in pool.allocate(32))
    for block, key in blocks.items():
        pool.name(block, key)
    pool.release(blocks)
    pool.release(pool.allocate(4))
    kept = [block for block, key in blocks.items() if pool.take(key) is not None]
    assert kept == list(blocks)[8:]
