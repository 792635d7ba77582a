"""Completes recorded texts by several ways to draft, at several delays, and adds up what the services report."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.overlap import paper
from bench.overlap.costs import Costs
from bench.overlap.recording import Recording
from bench.overlap.services import replaying
from tandem.cli.errors import CliError
from tandem.policies import policy_from_names
from tandem.v1 import completion_pb2, policy_pb2

#: Ways to draft, by the branches that they allow; the last with lengths by the rule `goodput`, all others fixed ones.
NONE, MAIN_LINE, AHEAD, ADAPTIVE = "no look-ahead", "main line only", "look-ahead", "look-ahead, goodput"
BRANCHES: Mapping[str, int] = {NONE: 0, MAIN_LINE: 1, AHEAD: 16, ADAPTIVE: 16}
_LONGEST = 16  # of adaptive ones


@dataclass(frozen=True, slots=True)
class Task:
    """path: of the recording. texts: how many of it are completed, `tokens` of each. repetitions: of each of them.
    lengths: fixed ones, candidates of a block. stretch: how many times as long everything takes; figures are of times
    that are divided by it, so that what the services themselves need counts that much less."""

    recording: Recording
    path: Path
    lengths: Sequence[int]
    texts: int = 4
    tokens: int = 128
    repetitions: int = 1
    order: random.Random = field(default_factory=lambda: random.Random(0))
    stretch: float = 1.0

    @property
    def part(self) -> Recording:
        """The texts that are completed."""
        return replace(self.recording, texts=self.recording.texts[: self.texts])

    def policy(self, length: int, way: str) -> policy_pb2.SpeculationPolicy:
        accept = "coupled" if self.recording.temperature else "exact"
        policy = policy_from_names("goodput" if way == ADAPTIVE else "fixed", accept, max_tokens=length)
        policy.look_ahead = BRANCHES[way]
        return policy

    def sides(self, ways: Iterable[str]) -> list[tuple[str, int]]:
        """Ways to draft, each with its lengths."""
        return [(way, length) for way in ways for length in ([_LONGEST] if way == ADAPTIVE else self.lengths)]


@dataclass(slots=True)
class Sums:
    """One way to draft at one length and one delay. asked: milliseconds that an asked-for block took, with the wire.
    stretch: of all times that are added."""

    tokens: int = 0
    seconds: float = 0.0
    rounds: int = 0
    hits: dict[str, int] = field(default_factory=lambda: {"all kept": 0, "rejected": 0})
    misses: dict[str, int] = field(default_factory=lambda: {"all kept": 0, "rejected": 0})
    pushed: int = 0
    taken: int = 0
    size: int = 0
    asked: list[float] = field(default_factory=list)
    stretch: float = 1.0

    @property
    def speed(self) -> float:
        """Tokens per second after the first."""
        return self.tokens / self.seconds

    @property
    def hit_rate(self) -> float | None:
        """None where nothing could be foreseen."""
        hits, all_of = sum(self.hits.values()), sum(self.hits.values()) + sum(self.misses.values())
        return hits / all_of if all_of else None

    def add(self, finish: completion_pb2.Finish, rounds: Sequence[completion_pb2.RoundAccount] = ()) -> None:
        report, time = finish.speculation, finish.speculation.time
        self.tokens += finish.usage.completion_tokens - 1
        self.seconds += (time.total_microseconds - time.first_token_microseconds) / 1e6 / self.stretch
        self.rounds += report.verify_steps
        ahead = report.look_ahead
        self.hits["all kept"] += ahead.hits_all_kept
        self.hits["rejected"] += ahead.hits_rejected
        self.misses["all kept"] += ahead.misses_all_kept
        self.misses["rejected"] += ahead.misses_rejected
        self.pushed += ahead.pushed_tokens
        self.taken += ahead.taken_tokens
        self.size += ahead.pushed_bytes
        asked = [each for each in rounds if each.drafted and not each.foreseen]
        self.asked += [_draft_milliseconds(each.time) / self.stretch for each in asked]

    def to_plain(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens, "seconds": self.seconds, "rounds": self.rounds, "hits": self.hits,
            "misses": self.misses, "pushed_tokens": self.pushed, "taken_tokens": self.taken,
            "pushed_bytes": self.size, "asked_milliseconds": self.asked,
        }  # fmt: skip


def _draft_milliseconds(time: completion_pb2.RoundTime) -> float:
    parts = time.draft_queue_microseconds, time.draft_compute_microseconds, time.draft_wire_microseconds
    return sum(parts) / 1e3


#: By way to draft and length.
Sides = dict[tuple[str, int], Sums]


def check_text(task: Task, text: int, tokens: Sequence[int]) -> None:
    """Raises CliError where a completion is not the recorded text: its figures would mean nothing."""
    expected = task.recording.texts[text].tokens[: task.tokens]
    if list(tokens) != list(expected):
        first = next(
            (at for at, pair in enumerate(zip(tokens, expected, strict=False)) if pair[0] != pair[1]), "the end"
        )
        raise CliError(f"text {text} was not replayed as it was recorded, from token {first} on")


async def alone(task: Task, costs: Costs, ways: Sequence[str], say: Callable[[str], None]) -> Sides:
    """One caller. Sides are taken in an order drawn anew for each text. Raises CliError."""
    sides: Sides = {side: Sums(stretch=task.stretch) for side in task.sides(ways)}
    async with _served(task, costs) as caller:
        if any(way == ADAPTIVE for way, _ in sides):  # what it learns of a pair it learns once
            await caller.complete(0, task.tokens, task.policy(_LONGEST, ADAPTIVE))
        for number in range(task.texts * task.repetitions):
            text = number % task.texts
            for way, length in task.order.sample(list(sides), k=len(sides)):
                say(f"wire {costs.wire:g} ms, text {number + 1} of {task.texts * task.repetitions}: {way}, {length}")
                policy = task.policy(length, way)
                tokens, finish, _ = await caller.complete(text, task.tokens, policy)
                check_text(task, text, tokens)
                sides[way, length].add(finish)
    return sides


async def together(task: Task, costs: Costs, callers: int, length: int, say: Callable[[str], None]) -> dict[str, Sums]:
    """So many callers at once, each with texts of the recording one after the other, with and without look-ahead; by
    way to draft. Raises CliError."""
    sums = {NONE: Sums(stretch=task.stretch), AHEAD: Sums(stretch=task.stretch)}
    async with _served(task, costs) as caller:

        async def call(number: int, way: str) -> None:
            text = number % len(task.recording.texts)
            policy = task.policy(length, way)
            tokens, finish, rounds = await caller.complete(text, task.tokens, policy, audit=True)
            check_text(task, text, tokens)
            sums[way].add(finish, rounds)

        for repetition in range(task.repetitions):
            for way in task.order.sample(list(sums), k=len(sums)):
                say(f"{callers} callers, repetition {repetition + 1} of {task.repetitions}: {way}")
                await asyncio.gather(*(call(number, way) for number in range(callers)))
    return sums


def _served(task: Task, costs: Costs) -> Any:
    # What a busy processor delays is not the draft's fault, and is not to change what is measured.
    recording, stretched = task.recording, costs.stretched(task.stretch)
    return replaying(
        task.path, stretched, temperature=recording.temperature, seed=recording.seed, draft_patience_seconds=5.0
    )


@dataclass(frozen=True, slots=True)
class Bound:
    """What cannot be beaten: a draft and a wire that cost nothing. length: the best one."""

    speed: float
    length: int


def bound(task: Task, costs: Costs, longest: int = 32) -> Bound:
    """Of the texts that are completed, by arithmetic."""
    speeds = ((paper.ideal(task.part, costs, length, tokens=task.tokens), length) for length in range(longest + 1))
    return Bound(*max(speeds))


def best(sides: Sides, *ways: str) -> tuple[str, Sums]:
    """The fastest of these ways to draft, as text, and its sums."""
    (way, length), sums = max((each for each in sides.items() if each[0][0] in ways), key=lambda one: one[1].speed)
    return f"{'up to' if way == ADAPTIVE else 'length'} {length}", sums
