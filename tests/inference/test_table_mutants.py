"""What the model of tables is worth: pools and tables with one mistake each, which it must refuse."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tandem.inference.blocks import BlockPool
from tandem.inference.table import BLOCK_SIZE, BlockTable
from tests.inference.paging import SETTINGS, Tables

_SEARCH = settings(SETTINGS, max_examples=500, derandomize=True, database=None, phases=[Phase.generate])


def holds() -> bool:
    try:
        run_state_machine_as_test(Tables, settings=_SEARCH)
    except Exception:
        return False
    return True


def _key_of_the_block_alone(self: BlockTable, tokens: Any, index: int) -> bytes:
    text = tokens[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]
    return blake2b(array("q", text).tobytes()).digest()


def _take_without_holding(self: BlockPool, key: bytes) -> int | None:
    block = self._by_key.get(key)
    if block is not None and block in self._idle:
        self._idle.pop(block)
        self._holders[block] = 1
    return block


def _take_but_leave_idle(self: BlockPool, key: bytes) -> int | None:
    block = self._by_key.get(key)
    if block is not None:
        self._holders[block] += 1
    return block


def _release_to_free(self: BlockPool, blocks: Iterable[int]) -> None:
    for block in blocks:
        self._holders[block] -= 1
        if self._holders[block] == 0:
            self._set_free(block)


def _release_even_if_shared(self: BlockPool, blocks: Iterable[int]) -> None:
    for block in blocks:
        self._holders[block] = 0
        self._set_free(block)


def _drop_but_keep_keys(self: BlockTable, length: int) -> None:
    kept = -(-length // BLOCK_SIZE)
    self._pool.release(reversed(self.blocks[kept:]))
    del self.blocks[kept:]


def _drop_a_block_too_few(self: BlockTable, length: int) -> None:
    kept = length // BLOCK_SIZE + 1
    self._pool.release(reversed(self.blocks[kept:]))
    del self.blocks[kept:], self._keys[length // BLOCK_SIZE :]


def _needed_without_the_copy(self: BlockTable, count: int) -> int:
    return max(0, -(-(self.length + count) // BLOCK_SIZE) - len(self.blocks))


def _match_all(self: BlockTable, tokens: Any, most: int) -> None:
    _MATCH(self, tokens, len(tokens) + BLOCK_SIZE)


_MATCH = BlockTable.match

_MUTANTS: dict[str, tuple[type, str, Any]] = {
    "a shared block is written to": (BlockTable, "must_copy", property(lambda self: False)),
    "a block is copied though nobody shares it": (BlockTable, "must_copy", property(lambda self: self.length % 16 > 0)),
    "what is written to can still be found": (BlockPool, "forget", lambda self, block: None),
    "a key is that of its block alone": (BlockTable, "_key", _key_of_the_block_alone),
    "a fork does not hold its blocks": (BlockPool, "retain", lambda self, block: None),
    "what is found is not held": (BlockPool, "take", _take_without_holding),
    "what is found stays idle": (BlockPool, "take", _take_but_leave_idle),
    "what is released is free, though it can be found": (BlockPool, "release", _release_to_free),
    "what is released is free, though others hold it": (BlockPool, "release", _release_even_if_shared),
    "nothing is released": (BlockPool, "release", lambda self, blocks: None),
    "truncating keeps the keys of what is cut": (BlockTable, "_drop", _drop_but_keep_keys),
    "truncating to the end of a block keeps the next": (BlockTable, "_drop", _drop_a_block_too_few),
    "the block that will be copied is not counted": (BlockTable, "needed", _needed_without_the_copy),
    "the last token is taken from the cache": (BlockTable, "match", _match_all),
}  # fmt: skip


@pytest.mark.parametrize("mutant", _MUTANTS)
def test_a_mistake_is_seen(monkeypatch: pytest.MonkeyPatch, mutant: str) -> None:
    owner, name, replacement = _MUTANTS[mutant]
    monkeypatch.setattr(owner, name, replacement)
    assert not holds()


def test_evicting_what_is_held_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def release(self: BlockPool, blocks: Iterable[int]) -> None:
        """Puts a block among the idle ones while another still holds it."""
        for block in blocks:
            self._holders[block] -= 1
            if self._keys[block] is not None:
                self._idle[block] = None
            elif self._holders[block] == 0:
                self._set_free(block)

    monkeypatch.setattr(BlockPool, "release", release)
    assert not holds()


@pytest.mark.parametrize("wrong", [lambda count: count - 1, lambda count: 0])
def test_an_incomplete_copy_is_seen(monkeypatch: pytest.MonkeyPatch, wrong: Callable[[int], int]) -> None:
    copy = Tables.copy
    monkeypatch.setattr(Tables, "copy", lambda self, source, target, count: copy(self, source, target, wrong(count)))
    assert not holds()
