"""The ratio rule, live: what it draws depends on what was drawn before, so that nothing recorded can be replayed.

Draft and target compute, and take so many times as long as their devices would that the processor is done in time.
The wire is as many times as long. Figures are given as if nothing had been stretched.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.overlap.costs import Costs
from bench.overlap.run import AHEAD, BRANCHES, Sides, Sums
from bench.overlap.service import DRAFT, TARGET
from bench.overlap.services import Caller, Process, delayed, orchestrated, process
from tandem.policies import policy_from_names
from tandem.tokenization import Tokenizer

#: Most of the steps that may be late, as a share.
MOST_LATE = 0.05
_WARM_TOKENS = 6
# Of waiting for what is on its way: a stretched block takes seconds.
_PATIENT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class LiveTask:
    """target, draft: as services take them. words: the target's tokenizer. prompts: token ids, one text of each.
    lengths: fixed ones, candidates of a block. stretch: how many times as long everything takes."""

    target: str
    draft: str
    words: Tokenizer
    prompts: Sequence[Sequence[int]]
    lengths: Sequence[int]
    tokens: int
    stretch: float
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Steps:
    """Of one service's device. late: those that the processor needed longer for than the device would have."""

    made: int
    late: int

    @property
    def late_share(self) -> float:
        return self.late / max(1, self.made)


@dataclass(slots=True)
class Live:
    """sides: in seconds as if nothing had been stretched. steps: by service."""

    stretch: float
    sides: Sides = field(default_factory=dict)
    steps: Mapping[str, Steps] = field(default_factory=dict)

    @property
    def is_paced(self) -> bool:
        """Whether enough steps were in time, of both services, for the figures to mean anything."""
        return bool(self.steps) and all(each.late_share <= MOST_LATE for each in self.steps.values())

    def to_plain(self) -> dict[str, Any]:
        return {
            "stretch": self.stretch,
            "steps": {service: asdict(each) for service, each in self.steps.items()},
            "sides": [{"way": way, "length": length} | sums.to_plain() for (way, length), sums in self.sides.items()],
        }


async def ratio(task: LiveTask, costs: Costs, say: Callable[[str], None]) -> Live:
    """One caller at temperature 1, at each length with look-ahead. Raises CliError."""
    live = Live(task.stretch, {(AHEAD, length): Sums() for length in task.lengths})
    stretched = costs.stretched(task.stretch)
    services: dict[str, Process] = {}
    async with AsyncExitStack() as stack:
        for role, model in ((TARGET, task.target), (DRAFT, task.draft)):
            arguments = ("bench.overlap.live_service", role, model, json.dumps(asdict(stretched)))
            services[role] = await stack.enter_async_context(process(*arguments))
        wire = await stack.enter_async_context(delayed(services[DRAFT].line, stretched.wire))
        stub = await stack.enter_async_context(
            orchestrated(
                [services[TARGET].line],
                [wire],
                task.words,
                draft_patience_seconds=_PATIENT_SECONDS,
                draft_timeout_seconds=_PATIENT_SECONDS,
            )  # fmt: skip
        )
        caller = Caller(stub, 1.0, task.seed, lambda text: task.prompts[text])
        say("the ratio rule, live: warming up")
        await caller.complete(0, _WARM_TOKENS, _policy(task.lengths[0], BRANCHES[AHEAD]))
        for text in range(len(task.prompts)):
            for (way, length), sums in live.sides.items():
                say(f"the ratio rule, live, text {text + 1} of {len(task.prompts)}: {way}, {length}")
                _, finish, _ = await caller.complete(text, task.tokens, _policy(length, BRANCHES[way]))
                sums.add(finish)
    for sums in live.sides.values():
        sums.seconds /= task.stretch
    live.steps = {role: _steps(each.rest) for role, each in services.items()}
    return live


def _policy(length: int, branches: int) -> Any:
    policy = policy_from_names("fixed", "ratio", max_tokens=length)
    policy.look_ahead = branches
    return policy


def _steps(told: str) -> Steps:
    """Of what a service printed at its end."""
    plain = json.loads(told)
    return Steps(plain["steps"], plain["late"])
