"""Whether two tokens of many completions follow the target's law: tests of lossless rules over gRPC."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from draft_service.drafters.base import Drafter
from tandem.inference.loaded import LoadedModel
from tandem.inference.runner import Block, ModelRunner
from tandem.sampling import History, SamplingChain, SamplingParams
from tandem.v1 import completion_pb2, policy_pb2
from tests.support.tiny import can_say, tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import Trio, trio

VOCABULARY = 4
PROMPT = (1, 2, 3, 1)
_SEED = 11
# Chi-square over the 16 pairs with 15 degrees of freedom: P(X > 60.5) = 2e-7 or less for each test.
_CRITICAL = 60.5
_CALLERS = 8


async def check_pair_law(
    rules: policy_pb2.SpeculationPolicy,
    *,
    samples: int,
    max_tokens: int = 4,
    sampling: Mapping[str, Any] | None = None,
    sayable: Sequence[int] | None = None,
    draft: LoadedModel | Drafter | None = None,
    **services: Any,
) -> list[completion_pb2.SpeculationReport]:
    """Completes PROMPT under so many seeds; the second and third token are to have the target's joint law, which is
    known exactly. sampling: at temperature 1 unless said otherwise. sayable: tokens that the draft can say, all unless
    given. draft: another one. services: of `trio`. Returns what the completions report."""
    sampling = sampling or {"temperature": 1.0}
    joint = _pair_law(list(PROMPT), SamplingParams(**sampling))
    counts: Counter[tuple[int, int]] = Counter()
    reports: list[completion_pb2.SpeculationReport] = []
    target = tiny_llama(_SEED, vocabulary=VOCABULARY)
    if draft is None:
        draft = tiny_llama(_SEED, vocabulary=VOCABULARY, noise=0.4)
        draft = can_say(draft, sayable) if sayable is not None else draft
    async with trio(target, draft, byte_tokenizer(VOCABULARY), **services) as running:

        async def sample(seeds: range) -> None:
            for seed in seeds:
                found = await _complete(running, rules, max_tokens, {**sampling, "seed": seed})
                counts[found.token_ids[1], found.token_ids[2]] += 1
                reports.append(found.finish.speculation)

        await asyncio.gather(*(sample(range(first, samples, _CALLERS)) for first in range(_CALLERS)))
    expected = joint * samples
    statistic = sum(
        (counts[pair] - float(expected[pair])) ** 2 / float(expected[pair])
        for pair in itertools.product(range(VOCABULARY), repeat=2)
        if expected[pair] > 0
    )
    assert all(expected[pair] > 0 for pair in counts)
    assert statistic < _CRITICAL
    return reports


async def _complete(
    services: Trio, rules: policy_pb2.SpeculationPolicy, max_tokens: int, sampling: Mapping[str, Any]
) -> completion_pb2.CompleteOnceResponse:
    return await services.complete(list(PROMPT), policy=rules, max_tokens=max_tokens, sampling=dict(sampling))


def _pair_law(prompt: list[int], params: SamplingParams) -> torch.Tensor:
    """Exact joint law [V, V] of the second and third generated token, the first summed over.

    The second is the first candidate of the first block; the third is its second candidate, its bonus or follows a
    correction: the pair lies across all borders that a round has.
    """
    runner = ModelRunner(tiny_llama(_SEED, vocabulary=VOCABULARY))
    chain = SamplingChain(params, VOCABULARY)

    def law(tokens: list[int]) -> torch.Tensor:
        logits = runner.forward([Block(runner.open(), tokens, 1)])[0]
        return chain.log_probs(logits, History(tokens))[0].double().exp()

    joint = torch.zeros(VOCABULARY, VOCABULARY, dtype=torch.float64)
    for first, second in itertools.product(range(VOCABULARY), repeat=2):
        reached = law(prompt)[first] * law([*prompt, first])[second]
        joint[second] += reached * law([*prompt, first, second])
    return joint
