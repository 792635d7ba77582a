"""Whether two tokens of many completions follow the target's law: tests of lossless rules over gRPC."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from draft_service.drafters.base import Drafter
from tandem.inference.loaded import LoadedModel
from tandem.inference.runner import Block, ModelRunner
from tandem.sampling import History, SamplingChain, SamplingParams
from tandem.v1 import completion_pb2, policy_pb2
from tests.statistics.goodness import fits
from tests.support.tiny import can_say, tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import Trio, trio

VOCABULARY = 4
PROMPT = (1, 2, 3, 1)
SEED = 11
# Half of the pairs come less than once in a hundred times: alone, one of them that came twice would look like another
# law. Of 200 to 400 texts, with what expects fewer than this taken together, the tail of the statistic was at most 1.4
# times chi-square's down to 1e-5, in two million draws.
_LEAST_EXPECTED = 10.0
_CALLERS = 8


async def check_pair_law(
    rules: policy_pb2.SpeculationPolicy,
    *,
    samples: int,
    max_tokens: int = 4,
    sampling: Mapping[str, Any] | None = None,
    sayable: Sequence[int] | None = None,
    drafter: Callable[[LoadedModel], Drafter] | None = None,
    **services: Any,
) -> list[completion_pb2.SpeculationReport]:
    """Completes PROMPT under so many seeds; the second and third token are to have the target's joint law, which is
    known exactly. sampling: at temperature 1 unless said otherwise. sayable: tokens that the draft can say, all unless
    given. drafter: what drafts, made of the draft's model; that alone unless given. services: of `trio`. Returns what
    the completions report."""
    sampling = sampling or {"temperature": 1.0}
    joint = pair_law(sampling)
    counts: Counter[tuple[int, int]] = Counter()
    reports: list[completion_pb2.SpeculationReport] = []
    target, draft = (tiny_llama(SEED, vocabulary=VOCABULARY, noise=noise) for noise in (0.0, 0.4))
    if sayable is not None:
        draft = can_say(draft, sayable)
    drafts = draft if drafter is None else drafter(draft)
    async with trio(target, drafts, byte_tokenizer(VOCABULARY), **services) as running:

        async def sample(seeds: range) -> None:
            for seed in seeds:
                found = await _complete(running, rules, max_tokens, {**sampling, "seed": seed})
                counts[found.token_ids[1], found.token_ids[2]] += 1
                reports.append(found.finish.speculation)

        await asyncio.gather(*(sample(range(first, samples, _CALLERS)) for first in range(_CALLERS)))
    assert follows(counts, joint), counts
    return reports


def follows(counts: Counter[tuple[int, int]], joint: torch.Tensor) -> bool:
    """Whether the pairs that came may have the joint law [V, V]; of what has it, one test in a million says no."""
    table = torch.zeros_like(joint)
    for pair, count in counts.items():
        table[pair] = count
    return fits(table, joint, _LEAST_EXPECTED)


async def _complete(
    services: Trio, rules: policy_pb2.SpeculationPolicy, max_tokens: int, sampling: Mapping[str, Any]
) -> completion_pb2.CompleteOnceResponse:
    return await services.complete(list(PROMPT), policy=rules, max_tokens=max_tokens, sampling=dict(sampling))


def pair_law(sampling: Mapping[str, Any]) -> torch.Tensor:
    """Exact joint law [V, V] of the second and third generated token, the first summed over.

    The second is the first candidate of the first block; the third is its second candidate, its bonus or follows a
    correction: the pair lies across all borders that a round has.
    """
    prompt, runner = list(PROMPT), ModelRunner(tiny_llama(SEED, vocabulary=VOCABULARY))
    chain = SamplingChain(SamplingParams(**sampling), VOCABULARY)

    def law(tokens: list[int]) -> torch.Tensor:
        logits = runner.forward([Block(runner.open(), tokens, 1)])[0]
        return chain.log_probs(logits, History(tokens))[0].double().exp()

    joint = torch.zeros(VOCABULARY, VOCABULARY, dtype=torch.float64)
    for first, second in itertools.product(range(VOCABULARY), repeat=2):
        reached = law(prompt)[first] * law([*prompt, first])[second]
        joint[second] += reached * law([*prompt, first, second])
    return joint
