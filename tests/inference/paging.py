"""Block tables over a cache that only remembers which text each entry was written for.

The model beside them is too simple to be wrong: for each table, the text that its entries must stand for.
"""

from __future__ import annotations

from itertools import accumulate

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from tandem.inference.blocks import BlockPool
from tandem.inference.table import BLOCK_SIZE, BlockTable

SETTINGS = settings(max_examples=200, stateful_step_count=40, deadline=None)

# Borders of blocks, and a little beside them, more often than other lengths.
_COUNTS = st.sampled_from([1, 2, 15, 16, 17, 31, 32, 33, 48]) | st.integers(1, 60)


def prefixes(text: list[int]) -> list[int]:
    """For each token, a number that stands for it and all before it."""
    return list(accumulate(text, lambda before, token: hash((before, token)), initial=0))[1:]


class Tables(RuleBasedStateMachine):
    """Tables of one pool are fed, cut, forked and freed at random, and passes over them fail."""

    tables = Bundle("tables")

    @initialize(blocks=st.integers(1, 14))
    def start(self, blocks: int) -> None:
        self.pool = BlockPool(blocks)
        self.entries: dict[int, int] = {}
        self.texts: dict[BlockTable, list[int]] = {}
        self.copies: list[int] = []

    def copy(self, source: int, target: int, count: int) -> None:
        self.copies.append(count)
        for entry in range(count):
            self.entries[target * BLOCK_SIZE + entry] = self.entries[source * BLOCK_SIZE + entry]

    @rule(target=tables)
    def open(self) -> BlockTable:
        table = BlockTable(self.pool, self.copy)
        self.texts[table] = []
        return table

    @rule(
        table=tables, count=_COUNTS, token=st.integers(0, 1), unconfirmed=st.sampled_from([0, 0, 1, 5]),
        fails=st.sampled_from([False, False, False, True]),
    )  # fmt: skip
    def feed(self, table: BlockTable, count: int, token: int, unconfirmed: int, fails: bool) -> None:
        """Few different tokens, so that texts are often the same. fails: the pass does, after it has written."""
        self.run(table, self.texts[table] + [token] * count, min(unconfirmed, count), fails)

    @rule(table=tables, data=st.data(), count=_COUNTS, token=st.integers(0, 1))
    def feed_again(self, table: BlockTable, data: st.DataObject, count: int, token: int) -> None:
        """It gives way, in part or as a whole, and comes back with more."""
        text = self.texts[table]
        self.truncate(table, data)
        self.run(table, text + [token] * count)

    def run(self, table: BlockTable, text: list[int], unconfirmed: int = 0, fails: bool = False) -> None:
        """A pass over what the table lacks of `text`, if there is room for it."""
        kept = table.length
        table.match(text, len(text) - 1)
        matched = table.length
        assert kept <= matched < len(text)
        if self.reserve(table, len(text) - matched):
            slots = table.slots(matched, len(text) - matched)
            assert self.valid().isdisjoint(slots), "another's entry is written to"
            self.entries.update(dict.fromkeys(slots, -1))
            if not fails:
                self.entries.update(zip(slots, prefixes(text)[matched:], strict=True))
                table.advance(len(slots))
                table.name(text, len(text) - unconfirmed)
        if table.length == matched:
            table.truncate(matched)
        self.texts[table] = text[: table.length]

    def reserve(self, table: BlockTable, count: int) -> bool:
        """Whether there was room; checks what the table says about it before and after."""
        needed, before, copied = table.needed(count), self.state(table), len(self.copies)
        index, inside = divmod(table.length, BLOCK_SIZE)
        others = [other for other in self.texts if other is not table]
        is_shared = inside > 0 and any(table.blocks[index] in other.blocks for other in others)
        if not self.pool.can_allocate(needed):
            try:
                table.reserve(count)
            except ValueError:
                assert (self.state(table), len(self.copies)) == (before, copied)
                return False
            raise AssertionError("there was room after all")
        available = self.pool.available
        table.reserve(count)
        assert available - self.pool.available == needed
        assert self.copies[copied:] == ([inside] if is_shared else [])
        assert len(table.blocks) == -(-(table.length + count) // BLOCK_SIZE)
        assert table.needed(count) == 0
        return True

    @rule(table=tables, data=st.data())
    def truncate(self, table: BlockTable, data: st.DataObject) -> None:
        borders = st.integers(0, table.length // BLOCK_SIZE).map(lambda blocks: blocks * BLOCK_SIZE)
        length, copied = data.draw(st.integers(0, table.length) | borders), len(self.copies)
        table.truncate(length)
        del self.texts[table][length:]
        assert (table.length, len(self.copies)) == (length, copied)

    @rule(target=tables, table=tables)
    def fork(self, table: BlockTable) -> BlockTable:
        available, copied = self.pool.available, len(self.copies)
        other = table.fork()
        assert (other.blocks, other.length) == (table.blocks, table.length)
        assert (self.pool.available, len(self.copies)) == (available, copied)
        self.texts[other] = list(self.texts[table])
        return other

    @rule(table=consumes(tables))
    def free(self, table: BlockTable) -> None:
        table.free()
        assert (table.length, table.blocks) == (0, [])
        del self.texts[table]

    @rule()
    def forget_idle(self) -> None:
        self.pool.forget_idle()
        assert self.pool.idle == 0

    @rule()
    def fill_up(self) -> None:
        """Somebody takes all that is there and goes again."""
        blocks = self.pool.allocate(self.pool.available)
        assert not self.pool.can_allocate(1)
        self.entries.update((block * BLOCK_SIZE + entry, -2) for block in blocks for entry in range(BLOCK_SIZE))
        self.pool.release(blocks)

    @invariant()
    def every_table_has_the_text_that_it_was_fed(self) -> None:
        for table, text in self.texts.items():
            assert [self.entries[slot] for slot in table.slots(0, table.length)] == prefixes(text)

    @invariant()
    def extents_are_the_slots(self) -> None:
        for table in self.texts:
            extents = list(table.extents(table.length))
            assert [slot for extent in extents for slot in range(*extent)] == table.slots(0, table.length)
            assert all(stop != start for (_, stop), (start, _) in zip(extents, extents[1:], strict=False))

    @invariant()
    def every_block_is_held_by_those_that_have_it(self) -> None:
        lists = [table.blocks for table in self.texts]
        assert all(len(set(blocks)) == len(blocks) for blocks in lists)
        held = {block for blocks in lists for block in blocks}
        assert self.pool.held == len(held)
        for block in held:
            assert self.pool.holders(block) == sum(block in blocks for blocks in lists)

    def teardown(self) -> None:
        for table in getattr(self, "texts", {}):
            table.free()
        if hasattr(self, "pool"):
            assert (self.pool.held, self.pool.available) == (0, self.pool.count)
            self.pool.forget_idle()
            assert sorted(self.pool.allocate(self.pool.count)) == list(range(self.pool.count))

    def state(self, table: BlockTable) -> tuple[object, ...]:
        return self.pool.available, self.pool.idle, self.pool.held, table.length, list(table.blocks)

    def valid(self) -> set[int]:
        """Entries that some table needs."""
        return {slot for table in self.texts for slot in table.slots(0, table.length)}
