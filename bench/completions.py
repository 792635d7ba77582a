"""One completion of a bench's prompt."""

from __future__ import annotations

from bench.prompts import Prompt
from tandem.cli.client import Client
from tandem.cli.complete import Completion, ask, gather
from tandem.v1 import completion_pb2, policy_pb2


def request_for(
    prompt: Prompt,
    policy: policy_pb2.SpeculationPolicy,
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
    ignore_end: bool = True,
    audit: bool = False,
) -> completion_pb2.CompleteRequest:
    """ignore_end: go on after the end of sequence, so that all completions have the same length."""
    request = completion_pb2.CompleteRequest(
        max_tokens=max_tokens, speculation=policy, ignore_end_tokens=ignore_end, audit=audit
    )
    request.sampling.temperature, request.sampling.seed = temperature, seed
    ask(request, prompt.text, raw=prompt.raw)
    return request


def complete(client: Client, request: completion_pb2.CompleteRequest) -> Completion:
    """Raises TandemError."""
    return gather(client.complete(request), None, audit=False)
