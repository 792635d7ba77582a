"""Completes prompts in many ways that promise one text, and counts where they keep the promise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.completions import complete, request_for
from bench.policies import ALONE
from bench.prompts import Prompt
from bench.quality.run import in_parallel
from tandem.cli.client import Client
from tandem.cli.complete import Completion
from tandem.policies import policy_from_names
from tandem.v1 import policy_pb2

_OFF = policy_pb2.SpeculationPolicy(off=True)
_LENGTHS = (1, 3, 5, 8, 16)


@dataclass(frozen=True, slots=True)
class Way:
    """How a text is made. beside_others: all prompts at once, each in the steps of the others."""

    policy: policy_pb2.SpeculationPolicy
    beside_others: bool = False


#: Against the target alone, one prompt at a time. Lengths that are learnt from measured times differ from run to run.
WAYS: Mapping[str, Way] = {
    f"{ALONE}, again": Way(_OFF),
    f"{ALONE}, beside others": Way(_OFF, beside_others=True),
    **{f"coupled, {length}": Way(policy_from_names("fixed", "coupled", max_tokens=length)) for length in _LENGTHS},
    "coupled, AdaSD's stop": Way(policy_from_names("adasd", "coupled")),
    "coupled, goodput": Way(policy_from_names("goodput", "coupled")),
    "coupled, 5, beside others": Way(policy_from_names("fixed", "coupled", max_tokens=5), beside_others=True),
    "coupled, goodput, beside others": Way(policy_from_names("goodput", "coupled"), beside_others=True),
}


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked of every way. seed: of the first prompt. parallel: how many are others."""

    prompts: Sequence[Prompt]
    max_tokens: int
    temperature: float
    seed: int
    parallel: int

    def texts(self, client: Client, way: Way) -> list[Completion]:
        """Of all prompts, in their order. They go on after the end of sequence, so that all have the same length."""

        def text(index: int) -> Completion:
            request = request_for(
                self.prompts[index], way.policy, max_tokens=self.max_tokens, temperature=self.temperature,
                seed=self.seed + index,
            )  # fmt: skip
            return complete(client, request)

        return in_parallel(text, range(len(self.prompts)), self.parallel if way.beside_others else 1)


@dataclass(frozen=True, slots=True)
class Sameness:
    """Texts of one way against those of the target alone. before: tokens of all texts before their first differences.

    drafted, accepted: candidates; without any a way says nothing of speculation.
    """

    texts: int
    equal: int
    tokens: int
    before: int
    drafted: int
    accepted: int

    @classmethod
    def of(cls, found: Sequence[Completion], alone: Sequence[Completion]) -> Sameness:
        pairs = [(one.token_ids, other.token_ids) for one, other in zip(found, alone, strict=True)]
        reports = [one.finish.speculation for one in found]
        return cls(
            texts=len(pairs),
            equal=sum(one == other for one, other in pairs),
            tokens=sum(len(other) for _, other in pairs),
            before=sum(equal_tokens(one, other) for one, other in pairs),
            drafted=sum(report.drafted_tokens for report in reports),
            accepted=sum(report.accepted_tokens for report in reports),
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def equal_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens before the first difference."""
    differing = (index for index, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    return next(differing, min(len(one), len(other)))


def is_kept(found: Mapping[str, Sameness]) -> bool:
    """Whether all texts are equal, and some of them were drafted: without a draft they are equal by themselves."""
    ways = found.values()
    return all(same.equal == same.texts for same in ways) and any(same.drafted for same in ways)


def run(client: Client, task: Task, say: Callable[[str], None] = lambda text: None) -> dict[str, Sameness]:
    """By way. Raises TandemError."""
    say(ALONE)
    alone = task.texts(client, Way(_OFF))
    found = {}
    for name, way in WAYS.items():
        say(name)
        found[name] = Sameness.of(task.texts(client, way), alone)
    return found
