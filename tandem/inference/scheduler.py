"""What the next step runs: decode and verify blocks first, then pieces of prompts within a budget of tokens, then what
nobody has asked for yet within what they leave of a budget of rows.

Chunked prefill: Agrawal et al., OSDI 2024 (arXiv 2403.02310). Preemption by recomputation: Kwon et al., SOSP 2023
(arXiv 2309.06180, section 4.5).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from tandem.inference.blocks import BlockPool
from tandem.inference.choosing import choose, weigh
from tandem.inference.runner import Chunk
from tandem.inference.sequence import Sequence
from tandem.inference.table import BLOCK_SIZE
from tandem.step_times import StepTimes

# A block of that many tokens more than it wants rows is a prompt, or what had to give way and comes back.
_MOST_CATCHING_UP = BLOCK_SIZE
# What prompts get of a step that decoding fills by itself.
_LEAST_PREFILL = BLOCK_SIZE
# Of the budget for prompts the first (by priority, then age) gets at least this share; the rest goes to the shortest of
# those of one priority, which end sooner.
_FIRST_SHARE = 1 / 3
# A sequence that nobody has asked anything of for so long is idle: it gives way even to a younger one.
_IDLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Budget:
    """tokens: of a step; decode and verify blocks may exceed it, prompts get what they leave and a little at least.

    rows: most rows of logits in a step, which bounds the memory that they take. ahead_rows: tokens of a step up to
    which it is filled with what nobody has asked for, where one sequence is in use. candidates: of verify blocks in a
    step, over all sequences; 0 for no bound. weighs: whether they are bounded by what they cost instead.
    """

    tokens: int
    rows: int
    ahead_rows: int = 0
    candidates: int = 0
    weighs: bool = False


@dataclass(eq=False, slots=True)
class Task:
    """Tokens of one sequence that are to be run: all that it misses, `rows` rows of logits at the end.

    worth: who goes first of what nobody has asked for, larger before smaller; None for what was asked for. scores: of
    the last tokens, as many of them as may be left off from the end; never rising.
    """

    sequence: Sequence
    rows: int
    worth: float | None = None
    scores: list[float] = field(default_factory=list)

    @property
    def is_prefill(self) -> bool:
        return self.sequence.missing > self.rows + _MOST_CATCHING_UP

    def cut(self, kept: int) -> None:
        """Leaves off all but the first `kept` of the tokens that have scores."""
        dropped = len(self.scores) - kept
        if dropped:
            self.sequence.truncate(self.sequence.length - dropped)
            self.rows -= dropped
            del self.scores[kept:]


class Scheduler:
    """Plans steps over one pool. Knows the open sequences, from the oldest to the youngest."""

    def __init__(self, pool: BlockPool, budget: Budget) -> None:
        self.budget = budget
        self.preemptions = 0
        self.prefix_tokens = 0  # found in the cache
        self._pool = pool
        self._sequences: dict[int, Sequence] = {}
        self._step = 0
        self._times = StepTimes()

    def add(self, sequence: Sequence) -> None:
        self._sequences[sequence.number] = sequence

    def remove(self, sequence: Sequence) -> None:
        self._sequences.pop(sequence.number, None)

    def ahead_rows(self) -> int:
        """Tokens of a step up to which it is filled with what nobody has asked for: one fewer for each further sequence
        in use. Rows are free up to a number, but what is done for each of them is not, and all callers wait for it."""
        used = sum(not (each.is_branch or self._is_idle(each)) for each in self._sequences.values())
        return max(0, self.budget.ahead_rows - max(0, used - 1))

    def plan(self, tasks: Seq[Task]) -> list[tuple[Task, Chunk]]:
        """The next step, with room in the cache for all of it; may be empty while others hold the cache.

        tasks: of different open sequences that each fit the cache alone, with tokens missing.
        """
        self._step += 1
        ahead = [task for task in tasks if task.worth is not None]
        tasks = [task for task in tasks if task.worth is None]
        for task in tasks:
            self._match(task)
            task.sequence.last_used = time.monotonic()
        if self.budget.candidates or self.budget.weighs:
            self._choose(tasks)
        plan = _Plan(self.budget)
        busy = {task.sequence.number for task in tasks}
        # Who was served longest ago goes first among those of one priority, where not all fit.
        for task in sorted((task for task in tasks if not task.is_prefill), key=_turn):
            if not task.is_prefill:  # it has not given way to one before it
                self._add(plan, task, task.sequence.missing, busy)
        prompts = sorted((task for task in tasks if task.is_prefill), key=lambda task: task.sequence.rank)
        if prompts:
            left = max(_LEAST_PREFILL, self.budget.tokens - plan.tokens)
            for task, share in _shares(prompts, left):
                self._add(plan, task, share, busy)
        self._fill(plan, ahead)
        for task, _ in plan.chunks:
            task.sequence.last_step = self._step
        return plan.chunks

    def stepped(self, tokens: int, seconds: float) -> None:
        """What a step took that had no prompts in it."""
        if self.budget.weighs:
            self._times.add(tokens, seconds)

    def _choose(self, tasks: Seq[Task]) -> None:
        """Cuts blocks to the candidates that the budget holds. What has more to take in first is not held to it: it is
        run over several steps, and was preempted or begins."""
        blocks = [task for task in tasks if task.scores and not task.is_prefill]
        scores = [task.scores for task in blocks]
        if not self.budget.weighs:
            kept = choose(scores, self.budget.candidates)
        elif self._times.is_known:
            served = [task.sequence.missing - len(task.scores) for task in tasks if not task.is_prefill]
            kept = weigh(scores, sum(served), len(served), self._times)
        else:
            return
        for task, count in zip(blocks, kept, strict=True):
            task.cut(count)

    def _fill(self, plan: _Plan, ahead: Seq[Task]) -> None:
        """Adds what nobody has asked for, as far as there is room without anybody's giving way."""
        rows = self.ahead_rows() if ahead else 0
        for task in sorted(ahead, key=_worth, reverse=True):
            sequence, count = task.sequence, task.sequence.missing
            if (
                not sequence.closed  # it has not given way just now
                and plan.tokens + count <= rows
                and self._has_rows(plan, task.rows)
                and self._pool.can_allocate(sequence.table.needed(count))
            ):
                sequence.table.reserve(count)
                plan.add(task, Chunk(sequence, count, task.rows))

    def _add(self, plan: _Plan, task: Task, count: int, busy: set[int]) -> None:
        """Adds up to `count` tokens of the task to the plan, if they fit."""
        self._match(task)  # it may just have given way: what is left of it need not be run again
        missing, rows = task.sequence.missing, task.rows
        count = min(count, missing)
        # Rows are wanted of the last tokens, which stay together. A prompt goes on while others take all rows.
        if count < missing or (task.is_prefill and not self._has_rows(plan, rows)):
            count, rows = min(count, missing - max(rows, 1)), 0
        if count < 1 or not self._has_rows(plan, rows):
            return
        if self._reserve(task.sequence, count, plan, busy):
            plan.add(task, Chunk(task.sequence, count, rows))

    def _reserve(self, sequence: Sequence, count: int, plan: _Plan, busy: set[int]) -> bool:
        table = sequence.table
        if not self._pool.can_allocate(table.needed(count)):
            for victim in self._victims(sequence, count, plan.sequences, busy):
                victim.drop()
                if victim.is_branch:
                    self.remove(victim)
                else:
                    self.preemptions += 1
            if not self._pool.can_allocate(table.needed(count)):
                return False
        table.reserve(count)
        return True

    def _victims(self, sequence: Sequence, count: int, planned: set[int], busy: set[int]) -> list[Sequence]:
        """Who gives way for `count` tokens of a sequence: nobody where all who may do not make enough room."""
        available = self._pool.available
        # A last block that it shares may be its own when the others have gone.
        needed = sequence.table.needed(count) - sequence.table.must_copy
        given: Counter[int] = Counter()
        victims = []
        for other in self._who_may_give_way(sequence, planned, busy):
            victims.append(other)
            given.update(other.table.blocks)
            available += sum(given[block] == self._pool.holders(block) for block in other.table.blocks)
            if available >= needed:
                return victims
        return []

    def _who_may_give_way(self, sequence: Sequence, planned: set[int], busy: set[int]) -> Iterator[Sequence]:
        """Those that rank behind it, the last first, then those that have long been idle."""
        ranked = sorted(self._sequences.values(), key=lambda other: other.rank, reverse=True)
        holders = [other for other in ranked if other.table.blocks and other.number not in planned]
        yield from (other for other in holders if other.rank > sequence.rank)
        yield from (
            other
            for other in holders
            if other.rank < sequence.rank and other.number not in busy and self._is_idle(other)
        )

    @staticmethod
    def _is_idle(sequence: Sequence) -> bool:
        return sequence.last_used < time.monotonic() - _IDLE_SECONDS

    def _match(self, task: Task) -> None:
        """Takes what the cache already has of a task's text, but for the tokens whose logits are wanted."""
        sequence, table, before = task.sequence, task.sequence.table, task.sequence.table.length
        table.match(sequence.tokens, min(sequence.length - max(task.rows, 1), sequence.text_length))
        self.prefix_tokens += table.length - before

    def _has_rows(self, plan: _Plan, rows: int) -> bool:
        return not rows or not plan.chunks or plan.rows + rows <= self.budget.rows


class _Plan:
    def __init__(self, budget: Budget) -> None:
        self.chunks: list[tuple[Task, Chunk]] = []
        self.sequences: set[int] = set()
        self.tokens = 0
        self.rows = 0

    def add(self, task: Task, chunk: Chunk) -> None:
        self.chunks.append((task, chunk))
        self.sequences.add(task.sequence.number)
        self.tokens += chunk.count
        self.rows += chunk.logits_rows


def _worth(task: Task) -> float:
    return task.worth or 0.0


def _turn(task: Task) -> tuple[float, int, int]:
    priority, number = task.sequence.rank
    return priority, task.sequence.last_step, number


def _shares(prompts: Seq[Task], tokens: int) -> list[tuple[Task, int]]:
    """How many tokens of each prompt, first come first, are run; prompts without any are left out."""
    shares = dict.fromkeys(prompts, 0)

    def give(task: Task, most: int) -> int:
        given = min(most, task.sequence.missing - shares[task])
        shares[task] += given
        return given

    left = tokens - give(prompts[0], max(_LEAST_PREFILL, int(tokens * _FIRST_SHARE)))
    for task in sorted(prompts, key=lambda task: (task.sequence.rank[0], task.sequence.missing)):
        if left <= 0:
            break
        left -= give(task, left)
    return [(task, share) for task, share in shares.items() if share]
