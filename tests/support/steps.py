"""Sessions of all kinds as they meet in one step: random rules, sampling parameters, blocks and distributions."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.compression import CompressedRow, compress, truncate_law
from tandem.noise import NoiseStream
from tandem.sampling import History, SamplingChain, SamplingParams
from target_service.verification import Rule


@dataclass(eq=False)
class Session:
    """One sequence in a step: logits [n + 1, V] of its block of n candidates."""

    rule: Rule
    params: SamplingParams
    noise: NoiseStream
    prompt: list[int]
    candidates: list[int]
    rows: list[CompressedRow] | None
    logits: Tensor
    max_entries: int
    mass: float

    def chain(self) -> SamplingChain:
        return SamplingChain(self.params, self.logits.shape[-1])


def sampling(drawn: random.Random, size: int, *, greedy: bool) -> SamplingParams:
    """Parameters of which every stage is sometimes in use."""
    chosen: dict = {"temperature": 0.0} if greedy else {
        "temperature": drawn.choice([1.0, 1.0, 0.6, 1.7]),
        "top_k": drawn.choice([0, 0, 4, size // 3]),
        "top_p": drawn.choice([1.0, 1.0, 0.9, 0.4]),
        "min_p": drawn.choice([0.0, 0.0, 0.05]),
    }  # fmt: skip
    if drawn.random() < 0.3:
        chosen["logit_bias"] = {drawn.randrange(size): drawn.choice([2.0, -3.0, -math.inf]) for _ in range(3)}
    if drawn.random() < 0.3:
        chosen |= {"repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.2}
    return SamplingParams(**chosen)


def session(seed: int, size: int, *, rule: Rule | None = None, longest: int = 5) -> Session:
    """A session of any kind over a vocabulary of that size."""
    drawn, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    rule = rule or drawn.choice(list(Rule))
    count = drawn.randint(0, longest)
    logits = torch.randn(count + 1, size, generator=generator) * drawn.choice([0.3, 2.0, 5.0])
    other = logits[:count] + torch.randn(count, size, generator=generator) * drawn.choice([0.0, 0.5, 2.0])
    log_q = torch.log_softmax(other, -1)
    entries = drawn.choice([1, 3, size // 2, size])
    rows: list[CompressedRow] | None = None
    if rule.draws_residuals:
        rows = [truncate_law(row, entries) for row in log_q]
        candidates = [int(row.token_ids[drawn.randrange(len(row.token_ids))]) for row in rows]
    else:
        candidates = [int(row.argmax()) if drawn.random() < 0.7 else drawn.randrange(size) for row in log_q]
        if drawn.random() < 0.6:
            rows = [compress(row, entries, drawn.choice([1.0, 0.9])) for row in log_q]
    return Session(
        rule=rule,
        params=sampling(drawn, size, greedy=rule is Rule.GREEDY),
        noise=NoiseStream(drawn.getrandbits(64), drawn.getrandbits(24)),
        prompt=[drawn.randrange(size) for _ in range(drawn.randint(1, 6))],
        candidates=candidates,
        rows=rows,
        logits=logits,
        max_entries=drawn.choice([0, 0, 3, size]),
        mass=drawn.choice([1.0, 0.9]),
    )


def histories(sessions: list[Session]) -> list[History]:
    return [History(each.prompt) for each in sessions]
