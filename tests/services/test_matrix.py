"""Every lossless accept rule with every stop rule and every drafter that there is: the text, or its law, is that of the
target alone. The rules come from the registries and the drafters from `tandem.drafters`: a new one is here too.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from orchestrator import acceptance, stopping
from tandem.drafters import DRAFTERS
from tandem.v1 import policy_pb2
from tests.support.drafters import make
from tests.support.pair_law import PROMPT, SEED, VOCABULARY, follows, pair_law
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import Trio, trio

LOSSLESS = [name for name, rule in acceptance.RULES.items() if issubclass(rule, acceptance.LosslessRule)]
STOPS = list(stopping.RULES)
# And one behind another, and a model that reads the target's features.
NAMES = (*DRAFTERS, "stand+model", "features")
# A sampled text of each pair of rules; all stop rules together are one sample.
SAMPLES_OF_EACH = 20
_CALLERS = 8


def policies(accept: str) -> dict[str, policy_pb2.SpeculationPolicy]:
    """By stop rule. By their names, so that rules without a message of their own are among them."""
    rule = policy_pb2.AcceptPolicy(named=policy_pb2.NamedRule(name=accept))
    return {
        stop: policy_pb2.SpeculationPolicy(
            stop=policy_pb2.StopPolicy(named=policy_pb2.NamedRule(name=stop)), accept=rule
        )
        for stop in STOPS
    }


@pytest.mark.parametrize("drafter", NAMES)
async def test_greedy_texts_are_the_targets_own(drafter: str) -> None:
    seed, vocabulary, prompt = 2, 64, [5, 6, 5, 6, 5]  # it repeats itself, so that look-up finds something
    drafted, accepted = Counter[str](), 0
    tokenizer = byte_tokenizer(vocabulary)
    made = make(drafter, tiny_llama(seed, noise=0.1), tokenizer)
    async with trio(tiny_llama(seed), made, tokenizer) as services:
        alone = await services.complete(prompt, max_tokens=24)
        for accept in LOSSLESS:
            for stop, policy in policies(accept).items():
                found = await services.complete(prompt, policy=policy, max_tokens=24)
                report = found.finish.speculation
                assert (report.stop_rule, report.accept_rule) == (stop, accept)
                assert found.token_ids == alone.token_ids, (accept, stop)
                assert not report.lossy and report.lossy_charge == 0
                drafted[stop] += report.drafted_tokens
                accepted += report.accepted_tokens
    assert all(drafted[stop] > 0 for stop in STOPS) and accepted > 0


@pytest.mark.parametrize("drafter", NAMES)
async def test_coupled_texts_are_the_targets_own_for_their_seeds(drafter: str) -> None:
    seed, vocabulary, prompt = 3, 64, [5, 6, 5, 6, 5]
    tokenizer = byte_tokenizer(vocabulary)
    made = make(drafter, tiny_llama(seed, noise=0.1), tokenizer)
    async with trio(tiny_llama(seed), made, tokenizer) as services:
        for sampling in ({"temperature": 1.0, "seed": 7}, {"temperature": 0.7, "top_p": 0.9, "seed": 2**64 - 1}):
            alone = await services.complete(prompt, max_tokens=16, sampling=sampling)
            for stop, policy in policies("coupled").items():
                found = await services.complete(prompt, policy=policy, max_tokens=16, sampling=sampling)
                assert found.token_ids == alone.token_ids, stop


@pytest.mark.parametrize("accept", [name for name in LOSSLESS if name != "coupled"])  # whose texts are known one by one
@pytest.mark.parametrize("drafter", NAMES)
async def test_sampled_texts_have_the_targets_law(drafter: str, accept: str) -> None:
    """By a G-test over pairs of tokens, as in `pair_law`, with its error rate: the law is one for all stop rules, so
    that their samples count together. That each stop rule by itself keeps it is enumerated in `tests/statistics`."""
    counts, drafted = await sampled(drafter, policies(accept))
    assert sum(counts.values()) == SAMPLES_OF_EACH * len(STOPS) and drafted > 0
    assert follows(counts, pair_law({"temperature": 1.0}))


async def test_another_law_is_seen() -> None:
    """Otherwise the test above would show nothing: with everything let through the law is the draft's."""
    rule = policy_pb2.AcceptPolicy(named=policy_pb2.NamedRule(name="jsd", options={"threshold": 1.0}))
    lossy = policies("exact")
    for each in lossy.values():
        each.accept.CopyFrom(rule)
    counts, _ = await sampled("model", lossy, noise=0.4)
    assert not follows(counts, pair_law({"temperature": 1.0}))


async def sampled(
    drafter: str, rules: dict[str, policy_pb2.SpeculationPolicy], noise: float = 0.1
) -> tuple[Counter[tuple[int, int]], int]:
    """The second and third token of so many completions by each policy, and how many tokens were drafted. What is
    learnt is shared: a text of four tokens would end before it is of use."""
    counts: Counter[tuple[int, int]] = Counter()
    target, tokenizer = tiny_llama(SEED, vocabulary=VOCABULARY), byte_tokenizer(VOCABULARY)
    draft = tiny_llama(SEED, vocabulary=VOCABULARY, noise=noise)
    async with trio(target, make(drafter, draft, tokenizer, share_ngrams=True), tokenizer) as services:

        async def work(jobs: list[tuple[int, policy_pb2.SpeculationPolicy]], running: Trio) -> int:
            made = 0
            for seed, policy in jobs:
                found = await running.complete(
                    list(PROMPT), policy=policy, max_tokens=4, sampling={"temperature": 1.0, "seed": seed}
                )
                counts[found.token_ids[1], found.token_ids[2]] += 1
                made += found.finish.speculation.drafted_tokens
            return made

        jobs = list(enumerate(list(rules.values()) * SAMPLES_OF_EACH))
        drafted = sum(await asyncio.gather(*(work(jobs[first::_CALLERS], services) for first in range(_CALLERS))))
    return counts, drafted
