"""Completes prompts by several policies, paired, and adds up what the services report of each."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from bench.completions import complete, request_for
from bench.pair import Pair, running
from bench.policies import ALONE, DRAFT_ALONE
from bench.prompts import Prompt
from tandem.cli.client import Client
from tandem.cli.render import tokens_per_second
from tandem.v1 import completion_pb2, policy_pb2


@dataclass(frozen=True, slots=True)
class Done:
    """One completion. rounds: its rounds' accounts, where it was traced. token_ids: its text, where it was kept."""

    prompt: Prompt
    finish: completion_pb2.Finish
    rounds: Sequence[completion_pb2.RoundAccount] = ()
    token_ids: Sequence[int] = ()

    @property
    def speed(self) -> float:
        """Tokens per second after the first."""
        return tokens_per_second(self.finish)

    @property
    def efficiency(self) -> float:
        """Share of the decoding time that models computed: what the speed is of what it were without overhead."""
        time = self.finish.speculation.time
        total = time.total_microseconds - time.first_token_microseconds
        return (time.draft_compute_microseconds + time.target_compute_microseconds) / total


@dataclass(slots=True)
class Sums:
    """One policy over all prompts. Times in milliseconds, per round and completion; speeds in tokens per second."""

    done: list[Done] = field(default_factory=list)

    def of(self, dataset: str) -> Sums:
        return Sums([each for each in self.done if each.prompt.dataset == dataset])

    @property
    def reports(self) -> list[completion_pb2.SpeculationReport]:
        return [each.finish.speculation for each in self.done]

    @property
    def speeds(self) -> list[float]:
        return [each.speed for each in self.done]

    @property
    def verify_steps(self) -> int:
        return sum(report.verify_steps for report in self.reports)

    @property
    def drafted(self) -> int:
        return sum(report.drafted_tokens for report in self.reports)

    @property
    def accepted(self) -> int:
        return sum(report.accepted_tokens for report in self.reports)

    @property
    def lossy_tokens(self) -> int:
        return sum(report.lossy_tokens for report in self.reports)

    @property
    def tokens(self) -> int:
        return sum(each.finish.usage.completion_tokens for each in self.done)

    @property
    def acceptance_length(self) -> float:
        return 1 + self.accepted / self.verify_steps if self.verify_steps else 1.0

    @property
    def acceptance_rate(self) -> float:
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def wasted(self) -> float:
        """Candidates drafted in vain for each token of the text."""
        return (self.drafted - self.accepted) / self.tokens

    @property
    def efficiency(self) -> float:
        """Median over completions."""
        return statistics.median(each.efficiency for each in self.done)

    def part(self, name: str) -> float:
        """A part of RoundTime in the mean round, median over completions. A token of plain decoding is a round."""
        means = []
        for report in self.reports:
            rounds = report.verify_steps + report.plain_tokens - 1  # the first token is of no round
            means.append(getattr(report.time.rounds, f"{name}_microseconds") / max(1, rounds) / 1e3)
        return statistics.median(means)

    @property
    def other_milliseconds(self) -> float:
        """Median over completions of each one's median round: all but the models' compute."""
        times = [report.time.round_overhead_median_microseconds for report in self.reports]
        return statistics.median(times) / 1e3


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked of every policy. seed: of the sampling of the first prompt, and of the order."""

    prompts: Sequence[Prompt]
    max_tokens: int
    temperature: float
    seed: int

    def request(
        self, index: int, policy: policy_pb2.SpeculationPolicy, *, audit: bool = False
    ) -> completion_pb2.CompleteRequest:
        return request_for(
            self.prompts[index], policy, max_tokens=self.max_tokens, temperature=self.temperature,
            seed=self.seed + index, audit=audit,
        )  # fmt: skip


@contextmanager
def clients(pair: Pair, policies: Mapping[str, policy_pb2.SpeculationPolicy]) -> Iterator[dict[str, Client]]:
    """Who serves each policy: the pair, or the draft in the target's place for `draft alone`."""
    with ExitStack() as stack:
        of_pair = stack.enter_context(running(pair))
        served = dict.fromkeys(policies, of_pair)
        if DRAFT_ALONE in policies:
            served[DRAFT_ALONE] = stack.enter_context(running(pair.draft_alone()))
        yield served


def run(
    served: Mapping[str, Client],
    policies: Mapping[str, policy_pb2.SpeculationPolicy],
    task: Task,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Sums]:
    """Results by policy. Completions go on after the end of sequence, so that all have the same length."""
    order = random.Random(task.seed)
    results = {name: Sums() for name in policies}
    for name, policy in policies.items():  # what comes first pays for warming up
        warm = task.request(0, policy)
        warm.max_tokens = min(8, task.max_tokens)
        complete(served[name], warm)
    for index, prompt in enumerate(task.prompts):
        say(f"prompt {index + 1} of {len(task.prompts)}, temperature {task.temperature:g}")
        for name in order.sample(list(policies), k=len(policies)):
            finish = complete(served[name], task.request(index, policies[name])).finish
            results[name].done.append(Done(prompt, finish))
    return results


def trace(
    served: Mapping[str, Client], policies: Mapping[str, policy_pb2.SpeculationPolicy], task: Task, count: int
) -> dict[str, list[Done]]:
    """The first `count` prompts once more, with the account of every round; by policies that speculate. Accounts take
    their time, so these completions are not those that were measured."""
    traced: dict[str, list[Done]] = {}
    for name, policy in policies.items():
        if name in (ALONE, DRAFT_ALONE):
            continue
        traced[name] = []
        for index in range(min(count, len(task.prompts))):
            rounds = []
            for response in served[name].complete(task.request(index, policy, audit=True)):
                if response.HasField("round"):
                    rounds.append(response.round)
                if response.HasField("finish"):
                    traced[name].append(Done(task.prompts[index], response.finish, rounds))
    return traced
