"""The requests that callers send."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.completions import request_for
from bench.prompts import Prompt
from bench.serve.loops import Requests
from tandem.v1 import completion_pb2, policy_pb2

_MARKS = range(10**7, 10**8)  # of equal length, so that prompts differ in nothing else


@dataclass(frozen=True, slots=True)
class Workload:
    """shared_prompts: send prompts as they are. The target keeps what it has computed of a prompt for the next one
    that begins so; repeated ones then cost next to nothing before their first token. Otherwise each request's prompt
    begins with a random number of its own, so that all of it is computed, but for the few tokens that a chat template
    puts in front of every prompt. natural_lengths: let texts end where the model ends them."""

    prompts: Sequence[Prompt]
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    shared_prompts: bool = False
    natural_lengths: bool = False

    def requests(self, policy: policy_pb2.SpeculationPolicy, repetition: int, run: str) -> Requests:
        """Of a run. In one repetition request n has the same prompt and seed in all of them; only the marks differ.

        run: its name, which no other of this repetition has.
        """
        prompts = random.Random(f"{self.seed} {repetition}").sample(self.prompts, k=len(self.prompts))

        def request(number: int) -> completion_pb2.CompleteRequest:
            prompt = prompts[number % len(prompts)]
            if not self.shared_prompts:
                prompt = _marked(prompt, random.Random(f"{self.seed} {repetition} {run} {number}"))
            return self._request(prompt, policy, number)

        return request

    def _request(
        self, prompt: Prompt, policy: policy_pb2.SpeculationPolicy, number: int
    ) -> completion_pb2.CompleteRequest:
        return request_for(
            prompt,
            policy,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            seed=self.seed + number,
            ignore_end=not self.natural_lengths,
        )


def _marked(prompt: Prompt, source: random.Random) -> Prompt:
    """A heading to a reader, a comment in a program: it changes as little as can be of what follows."""
    return replace(prompt, text=f"# {source.choice(_MARKS)}\n{prompt.text}")
