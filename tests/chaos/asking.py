"""Every request once, a few at a time: to learn the right answers, to warm up, and after all is healed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from tests.chaos.callers import GrpcCaller, call
from tests.chaos.lag import Lag
from tests.chaos.outcomes import Outcome
from tests.chaos.processes import ServiceFailed
from tests.chaos.stage import ORCHESTRATORS, Stage
from tests.chaos.tally import Tally
from tests.chaos.works import Answer, Work

_CALLERS = 4
_SECONDS = 120.0
# First numbers of names: no caller of the crowd ever gets there.
_ALONE, _ONCE = 0xE0000000, 0xD0000000


async def answered(stage: Stage, works: Sequence[Work]) -> list[Work]:
    """With the answers of the target alone. Raises ServiceFailed."""
    found = list(works)

    async def answer(caller: GrpcCaller, index: int) -> None:
        work = found[index]
        outcome = Outcome(work, "", caller.name, caller.orchestrator, _SECONDS)
        await caller.stream(outcome, work.alone(f"chaos-{_ALONE + index:08x}"))
        if outcome.failure is not None or not outcome.is_whole:
            raise ServiceFailed(f"no right answer to {work.kind}: {outcome.failure}")
        found[index] = work.answered(
            [Answer(choice.tokens, choice.text) for _, choice in sorted(outcome.choices.items())]
        )

    await _each(stage, len(found), answer)
    return found


async def ask_each(stage: Stage, works: Sequence[Work], tally: Tally, lag: Lag) -> None:
    """Judged as any request."""

    async def ask(caller: GrpcCaller, index: int) -> None:
        name = f"chaos-{_ONCE + index:08x}"
        outcome = Outcome(works[index], name, caller.name, caller.orchestrator, _SECONDS)
        await call(caller, outcome, lag)
        tally.add(outcome)

    await _each(stage, len(works), ask)


async def _each(stage: Stage, count: int, do: Callable[[GrpcCaller, int], Awaitable[None]]) -> None:
    """Over all orchestrators."""
    numbers = iter(range(count))

    async def some(caller: GrpcCaller) -> None:
        try:
            for number in numbers:
                await do(caller, number)
        finally:
            await caller.close()

    names = [ORCHESTRATORS[number % len(ORCHESTRATORS)] for number in range(_CALLERS)]
    await asyncio.gather(*(some(GrpcCaller(name, stage.address(name))) for name in names))
