"""Sides in turn on the same prompts: what they made of them, and how fast."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from bench.peers.prompts import Openings
from bench.peers.side import Answer, Ids, Side, SideError
from bench.repetition import interleave


@dataclass(frozen=True, slots=True)
class Load:
    """clients: how many prompts at once; where it is 1 they come one after the other."""

    clients: int
    prompts: Sequence[Ids]


@dataclass(slots=True)
class Measured:
    """One side under one load. speeds: tokens per second of each repetition. answers: of the warm-up, whose prompts
    are the same on all sides, to compare texts by."""

    side: Side
    answers: Sequence[Answer]
    speeds: Sequence[float] = ()


@dataclass(slots=True)
class Results:
    """measured: by number of clients, then by side. absent: why there was nothing to measure, by side. failed: why a
    side that was there could not be measured."""

    measured: dict[int, dict[str, Measured]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def find(self, clients: int, side: str) -> Measured | None:
        return self.measured.get(clients, {}).get(side)


@dataclass(frozen=True, slots=True)
class Plan:
    """tokens: of each completion."""

    loads: Sequence[Load]
    tokens: int
    repetitions: int
    openings: Openings
    order: random.Random


async def measure(sides: Sequence[Side], plan: Plan, results: Results, say: Callable[[str], None]) -> None:
    """Adds what `sides` gave. One that cannot be warmed up is noted as failed, and the others go on.

    say: told what is done.

    Raises SideError for one that fails later.
    """
    for load in plan.loads:
        warm = results.measured.setdefault(load.clients, {})
        for side in sides:
            if side.name in results.failed:
                continue
            say(f"warming up: {side.name}, {load.clients} at once")
            try:
                warm[side.name] = Measured(side, await _complete(side, load.clients, load.prompts, plan.tokens))
            except SideError as error:
                results.failed[side.name] = str(error)
        turns = {side.name: _turn(side, load, plan, say) for side in sides if side.name in warm}
        for name, speeds in (await interleave(turns, plan.repetitions, plan.order)).items():
            warm[name].speeds = speeds


def _turn(side: Side, load: Load, plan: Plan, say: Callable[[str], None]) -> Callable[[], Awaitable[float]]:
    """Measures tokens per second of the wall's time: prompts included, from the first call to the last answer."""

    async def speed() -> float:
        say(f"measuring: {side.name}, {load.clients} at once")
        opening = plan.openings.next()
        prompts = [plan.openings.open(prompt, opening) for prompt in load.prompts]
        began = time.perf_counter()
        try:
            answers = await _complete(side, load.clients, prompts, plan.tokens)
        except SideError as error:
            raise SideError(f"{side.name}: {error}") from error
        return sum(answer.tokens for answer in answers) / (time.perf_counter() - began)

    return speed


async def _complete(side: Side, clients: int, prompts: Sequence[Ids], tokens: int) -> list[Answer]:
    """Raises SideError where an answer has not the length that was asked for: speeds could not be compared."""
    answers: list[Answer] = []
    for first in range(0, len(prompts), clients):
        answers += await side.complete(prompts[first : first + clients], tokens)
    if lengths := [answer.tokens for answer in answers if answer.tokens != tokens]:
        raise SideError(f"a completion has {lengths[0]} tokens and not {tokens}; does the context hold the prompt?")
    return answers
