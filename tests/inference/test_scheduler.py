"""Who is run when, and who gives way: without a model, over a pool of a few blocks."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.inference.blocks import BlockPool
from tandem.inference.scheduler import Budget, Scheduler, Task
from tandem.inference.sequence import Sequence
from tandem.inference.table import BLOCK_SIZE, BlockTable

TOKENS, ROWS = 48, 12


class House:
    """A scheduler, its sequences and what a runner would do with its plans."""

    def __init__(self, blocks: int = 64, tokens: int = TOKENS, rows: int = ROWS) -> None:
        self.pool = BlockPool(blocks)
        self.scheduler = Scheduler(self.pool, Budget(tokens, rows))
        self._texts = iter(range(1 << 40))

    def open(self, cached: int = 0) -> Sequence:
        """A sequence of a text of its own, `cached` tokens of which have been run."""
        sequence = Sequence(BlockTable(self.pool, lambda *_: None))
        self.scheduler.add(sequence)
        if cached:
            sequence.extend([next(self._texts)] * cached)
            sequence.table.reserve(cached)
            sequence.advance(cached, 0)
        return sequence

    def task(self, tokens: int, rows: int = 1, *, cached: int = 0, sequence: Sequence | None = None) -> Task:
        """A block of `tokens` more tokens."""
        sequence = sequence or self.open(cached)
        sequence.extend([next(self._texts)] * tokens)
        return Task(sequence, rows)

    def step(self, *tasks: Task) -> dict[Task, int]:
        """Runs a step; tokens of each task in it. Checks what holds of every step."""
        planned = self.scheduler.plan([task for task in tasks if task.sequence.missing])
        for task, chunk in planned:
            assert chunk.sequence is task.sequence
            # Rows are wanted of the last tokens, so they come with the last chunk, all together.
            is_last = chunk.count == task.sequence.missing
            assert 0 < chunk.count <= task.sequence.missing - (0 if is_last else task.rows)
            assert chunk.logits_rows == (task.rows if is_last else 0)
            assert task.sequence.table.needed(chunk.count) == 0  # room has been made
        rows = [chunk.logits_rows for _, chunk in planned if chunk.logits_rows]
        assert len(rows) <= 1 or sum(rows) <= self.scheduler.budget.rows
        assert len({task.sequence for task, _ in planned}) == len(planned)
        for _, chunk in planned:
            chunk.sequence.advance(chunk.count, max(0, chunk.logits_rows - 1))
        return {task: chunk.count for task, chunk in planned}


def test_decode_and_verify_blocks_are_run_first_and_whole() -> None:
    house = House()
    prompt, verify, decode = house.task(200), house.task(6, 6, cached=30), house.task(1, cached=50)
    assert house.step(prompt, verify, decode) == {verify: 6, decode: 1, prompt: TOKENS - 7}


def test_prompts_get_what_decoding_leaves_of_the_budget_and_a_little_at_least() -> None:
    house = House()
    verifies = [house.task(12, 1, cached=20) for _ in range(10)]
    prompts = [house.task(100), house.task(100)]
    step = house.step(*verifies, *prompts)
    assert all(step[task] == 12 for task in verifies)
    assert sum(step.get(task, 0) for task in prompts) == BLOCK_SIZE
    assert sum(house.step(*prompts).values()) == TOKENS


def test_the_oldest_prompt_goes_on_in_every_step() -> None:
    house = House(blocks=1000)
    oldest = house.task(400)
    for _ in range(20):
        others = [house.task(random.Random(1).randint(20, 40)) for _ in range(3)]
        assert house.step(oldest, *others)[oldest] >= TOKENS // 3


def test_of_the_others_the_shortest_prompt_goes_first() -> None:
    house = House()
    oldest, long, short = house.task(300), house.task(200), house.task(25)
    assert house.step(oldest, long, short) == {oldest: 16, short: 25, long: 7}


def test_rows_of_a_step_are_bounded() -> None:
    house = House()
    tasks = [house.task(5, 5, cached=20) for _ in range(5)]
    seen = [set(house.step(*tasks)) for _ in range(3)]
    assert seen == [set(tasks[:2]), set(tasks[2:4]), {tasks[4]}]


def test_a_block_of_more_rows_than_a_step_may_have_is_run_without_others() -> None:
    house = House()
    large, small = house.task(20, 20, cached=20), house.task(2, 2, cached=20)
    assert [house.step(large, small), house.step(large, small)] == [{large: 20}, {small: 2}]


def test_those_that_come_back_for_more_do_not_go_before_those_that_wait() -> None:
    """Each block of a caller is a task of its own; its turn is that of its sequence."""
    house = House(rows=5)
    sequences = [house.open(20) for _ in range(3)]
    served = []
    waiting = {sequence: house.task(5, 5, sequence=sequence) for sequence in sequences}
    for _ in range(9):
        [task] = house.step(*waiting.values())
        served.append(sequences.index(task.sequence))
        waiting[task.sequence] = house.task(5, 5, sequence=task.sequence)
    assert served == [0, 1, 2] * 3


def test_a_prompt_goes_on_where_others_take_all_rows() -> None:
    house = House(rows=4)
    prompt, verify = house.task(40, 2), house.open(20)
    counts = []
    while prompt.sequence.missing:
        counts.append(house.step(prompt, house.task(4, 4, sequence=verify)).get(prompt, 0))
        assert len(counts) < 5
    assert counts[0] == 38 and counts[-1] == 2


def test_the_youngest_gives_way_first_and_nobody_older() -> None:
    house = House(blocks=8)
    oldest, old, young = house.open(32), house.open(48), house.open(48)
    decode = house.task(1, sequence=old)
    assert house.step(decode) == {decode: 1}
    assert (oldest.cached, young.cached, house.scheduler.preemptions) == (32, 0, 1)
    late = house.task(60)  # the youngest now
    assert house.step(late) == {}
    assert (oldest.cached, old.cached) == (32, 49)


def test_what_has_been_planned_does_not_give_way_in_the_same_step() -> None:
    house = House(blocks=5)
    old, young = house.open(32), house.open(32)
    young.last_step, old.last_step = 1, 2
    tasks = house.task(1, sequence=old), house.task(1, sequence=young)
    assert house.step(*tasks) == {tasks[1]: 1}
    assert house.step(*tasks) == {tasks[0]: 1}
    assert house.scheduler.preemptions == 1


def test_an_older_one_gives_way_only_where_it_has_long_been_idle() -> None:
    house = House(blocks=4)
    idle = house.open(48)
    decode = house.task(30, 30, cached=16)
    assert house.step(decode) == {}
    idle.last_used = time.monotonic() - 60
    assert house.step(decode) == {decode: 30}
    assert (idle.cached, idle.length) == (0, 48)


def test_an_older_one_that_waits_for_its_turn_is_not_idle() -> None:
    house = House(blocks=4, rows=8)
    old, young = house.task(2, 2, cached=40), house.task(30, 8, cached=16)
    old.sequence.last_used = time.monotonic() - 60
    old.sequence.last_step = 5
    assert house.step(old, young) == {old: 2}
    assert old.sequence.cached == 42


def test_nobody_gives_way_where_it_does_not_help() -> None:
    """A middle one needs more than the younger have; they would only lose what they have run."""
    house = House(blocks=8, rows=41)
    oldest, middle, young = house.open(80), house.open(16), house.open(32)
    large, small = house.task(40, 40, sequence=middle), house.task(1, sequence=young)
    for _ in range(5):
        assert house.step(large) == {}
        assert young.cached >= 32
    house.scheduler.remove(oldest)
    oldest.close()
    assert house.step(large, small) == {large: 40, small: 1}
    assert house.scheduler.preemptions == 0


def test_what_gave_way_takes_back_what_nobody_has_written_to() -> None:
    house = House(blocks=12)
    idle, old, young = house.open(32), house.open(48), house.open(112)
    decode, back = house.task(1, sequence=old), house.task(1, sequence=young)
    assert house.step(decode, back) == {decode: 1}
    # Two blocks have gone: one that was needed, one that is kept clear.
    assert (young.cached, house.scheduler.preemptions) == (80, 1)
    house.scheduler.remove(idle)
    idle.close()
    assert house.step(back) == {back: 113 - 80}


@pytest.mark.parametrize("rows, found", [(0, 48), (1, 48), (16, 48), (17, 32), (64, 0)])
def test_of_a_text_that_is_known_the_rest_is_run_and_what_rows_are_wanted_of(rows: int, found: int) -> None:
    house = House(tokens=64, rows=64)
    first, second = house.open(64), house.open()
    second.extend(first.tokens)
    task = Task(second, rows)
    assert house.step(task) == {task: 64 - found}


def test_those_that_share_blocks_give_way_together() -> None:
    house = House(blocks=5)
    first = house.open(16)
    parent = house.open(64)
    fork = parent.fork()
    house.scheduler.add(fork)
    decode = house.task(20, 20, sequence=first)
    assert house.step(decode) == {decode: 20}
    assert (parent.cached, fork.cached) == (0, 0)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 1 << 32), blocks=st.integers(4, 24), rows=st.integers(1, 20), tokens=st.integers(1, 64))
def test_every_task_is_served_whatever_comes_beside_it(seed: int, blocks: int, rows: int, tokens: int) -> None:
    """Random arrivals over a pool that is too small for them; each sequence asks a few times and leaves.

    A step in which nothing runs would go on for ever, as nobody is idle. One in which something runs has a token at
    least, and of all that is run a part may be run again because its sequence gave way: to an older one, which then
    has room, and takes a block of it. So twice as many steps as tokens are more than enough.
    """
    chance = random.Random(seed)
    house = House(blocks, tokens, rows)
    largest = blocks * BLOCK_SIZE
    left: dict[Task, int] = {}
    arrivals, total, steps = 20, 0, 0
    while arrivals or left:
        if arrivals and chance.random() < 0.3:
            arrivals -= 1
            count = chance.randint(1, largest)
            left[house.task(count, chance.randint(0, min(count, 8)))] = chance.randint(0, 4)
            total += count
        step = house.step(*left)
        assert step or not left
        steps += 1 if left else 0
        for task in step:
            if task.sequence.missing:
                continue
            asks, sequence = left.pop(task), task.sequence
            sequence.truncate(sequence.length - chance.randint(0, min(3, sequence.length)))
            count = min(chance.randint(1, 8), largest - sequence.length)
            if asks and count:
                total += count
                left[house.task(count, chance.randint(0, count), sequence=sequence)] = asks - 1
            else:
                house.scheduler.remove(sequence)
                sequence.close()
        assert steps <= 2 * total
    assert (house.pool.held, house.pool.available) == (0, blocks)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 64])
def test_a_sequence_may_fill_the_whole_pool(count: int) -> None:
    house = House(blocks=4)
    others = [house.open(16) for _ in range(3)]
    task = house.task(count)
    for other in others:
        other.last_used = time.monotonic() - 60
    while task.sequence.missing:
        assert house.step(task)
    assert task.sequence.cached == count
