"""Completes prompts by several policies, paired, and adds up what the service reports of each."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tandem.cli.client import Client
from tandem.cli.complete import ask, gather
from tandem.cli.render import tokens_per_second
from tandem.policies import policy_from_names
from tandem.v1 import completion_pb2, policy_pb2

ALONE = "target alone"

#: The paper's baselines and its two versions (arXiv 2512.11280v1, v2), and AdaEDL (arXiv 2410.18351).
POLICIES: Mapping[str, policy_pb2.SpeculationPolicy] = {
    ALONE: policy_pb2.SpeculationPolicy(off=True),
    "vanilla, 5": policy_from_names("fixed", "ratio", max_tokens=5),
    "AdaEDL": policy_from_names("adaedl", "ratio"),
    "AdaSD v1": policy_from_names("adasd", "adasd"),
    "AdaSD v2": policy_from_names("adasd", "adasd-kde"),
}


@dataclass(slots=True)
class Sums:
    """One policy over all prompts. Times in milliseconds, per round and completion; speeds in tokens per second."""

    completions: list[completion_pb2.Finish] = field(default_factory=list)

    @property
    def speeds(self) -> list[float]:
        return [tokens_per_second(finish) for finish in self.completions]

    @property
    def verify_steps(self) -> int:
        return sum(finish.speculation.verify_steps for finish in self.completions)

    @property
    def drafted(self) -> int:
        return sum(finish.speculation.drafted_tokens for finish in self.completions)

    @property
    def accepted(self) -> int:
        return sum(finish.speculation.accepted_tokens for finish in self.completions)

    @property
    def lossy_tokens(self) -> int:
        return sum(finish.speculation.lossy_tokens for finish in self.completions)

    @property
    def acceptance_length(self) -> float:
        return 1 + self.accepted / self.verify_steps if self.verify_steps else 1.0

    @property
    def acceptance_rate(self) -> float:
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def draft_milliseconds(self) -> float:
        return self._compute("draft_compute_microseconds")

    @property
    def target_milliseconds(self) -> float:
        return self._compute("target_compute_microseconds")

    @property
    def other_milliseconds(self) -> float:
        """Median over completions of each one's median round."""
        times = [finish.speculation.time.round_overhead_median_microseconds for finish in self.completions]
        return statistics.median(times) / 1e3

    def _compute(self, name: str) -> float:
        """Median over completions of the mean round (of the mean token without speculation)."""
        means = []
        for finish in self.completions:
            steps = finish.speculation.verify_steps or finish.usage.completion_tokens
            means.append(getattr(finish.speculation.time, name) / steps / 1e3)
        return statistics.median(means)


def run(
    client: Client,
    prompts: Sequence[str],
    policies: Mapping[str, policy_pb2.SpeculationPolicy],
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> dict[str, Sums]:
    """Results by policy. Completions go on after the end of sequence, so that all have the same length."""
    order = random.Random(seed)
    results = {name: Sums() for name in policies}
    for policy in policies.values():  # what comes first pays for warming up
        _complete(client, prompts[0], policy, max_tokens=8, temperature=temperature, seed=seed)
    for index, prompt in enumerate(prompts):
        for name in order.sample(list(policies), k=len(policies)):
            finish = _complete(
                client, prompt, policies[name], max_tokens=max_tokens, temperature=temperature, seed=seed + index
            )
            results[name].completions.append(finish)
    return results


def _complete(
    client: Client,
    prompt: str,
    policy: policy_pb2.SpeculationPolicy,
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> completion_pb2.Finish:
    request = completion_pb2.CompleteRequest(max_tokens=max_tokens, speculation=policy, ignore_end_tokens=True)
    request.sampling.temperature, request.sampling.seed = temperature, seed
    ask(request, prompt, raw=False)
    return gather(client.complete(request), None, audit=False).finish
