"""A seed gives one text: by coupled sampling that of the target alone, whatever happens on the way (in float32)."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from draft_service.drafters.base import Drafter
from draft_service.drafters.prompt_lookup import PromptLookupDrafter
from tandem.inference.loaded import LoadedModel
from tandem.inference.runner import ModelRunner
from tandem.policies import STOP_RULES
from tandem.v1 import completion_pb2, grammar_pb2, policy_pb2
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import OFF, Trio, make_request, policy, trio

VOCABULARY = 64
TOKENIZER = byte_tokenizer(VOCABULARY, ends=(0,))
#: Rules that promise the text of the target alone at temperature 0; the last two as they let nothing through.
GREEDY = (
    policy("fixed", "exact"), policy("fixed", "ratio"), policy("adasd", "block"), policy("goodput", "coupled"),
    policy("fixed", "jsd", threshold=0.0), policy("adasd", "adasd", lossy_budget=0.0),
)  # fmt: skip

Text = tuple[tuple[int, ...], str, int, str]

SEEDS = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2**63, 2**64 - 1]))
IDS = st.integers(0, VOCABULARY - 1)
CHAINS = st.fixed_dictionaries(
    {"temperature": st.sampled_from([0.2, 0.7, 1.0, 1.5])},
    optional={
        "top_k": st.integers(0, 30),
        "top_p": st.floats(0.1, 1.0),
        "min_p": st.floats(0.0, 0.3),
        "repetition_penalty": st.floats(0.7, 1.5),
        "presence_penalty": st.floats(-2.0, 2.0),
        "frequency_penalty": st.floats(-2.0, 2.0),
        "logit_bias": st.dictionaries(IDS, st.sampled_from([-math.inf, -3.0, 2.0]), max_size=4),
    },
)
ENDS = st.fixed_dictionaries(
    {},
    optional={
        "stop": st.just(["!", "\t\t"]),
        "stop_token_ids": st.lists(IDS, max_size=2),
        "min_tokens": st.integers(0, 30),
        "ignore_end_tokens": st.booleans(),
        "log_probabilities": st.integers(0, 3),
    },
)


def texts(answer: completion_pb2.CompleteOnceResponse) -> list[Text]:
    """What a caller gets of every choice."""
    return [
        (tuple(each.token_ids), each.text, each.finish.reason, each.finish.stop)
        for each in (answer, *answer.more_choices)
    ]


def coupled(drawn: random.Random | None = None) -> list[policy_pb2.SpeculationPolicy]:
    """Every stop rule and many lengths; some of those, where one draws."""
    found = [policy(stop, "coupled") for stop in STOP_RULES]
    found += [policy("fixed", "coupled", max_tokens=length) for length in (1, 2, 3, 7, 20)]
    return found if drawn is None else drawn.sample(found, 4)


@settings(max_examples=8, deadline=None)
@given(
    model=st.integers(0, 10_000),
    noise=st.sampled_from([0.0, 0.03, 0.1, 0.4]),
    prompt=st.lists(IDS, min_size=1, max_size=20),
    seed=SEEDS,
    chain=CHAINS,
    ends=ENDS,
    choices=st.sampled_from([1, 1, 3]),
    drawn=st.randoms(use_true_random=False),
)
def test_coupled_text_is_that_of_the_target_alone(
    model: int, noise: float, prompt: list[int], seed: int, chain: dict, ends: dict, choices: int, drawn: random.Random
) -> None:
    async def check() -> None:
        asked = {"sampling": {**chain, "seed": seed}, "n": choices, "max_tokens": 30, **ends}
        async with trio(tiny_llama(model), tiny_llama(model, noise=noise), TOKENIZER) as services:
            alone = await services.complete(prompt, **asked)
            for each in coupled(drawn):
                found = await services.complete(prompt, policy=each, **asked)
                assert texts(found) == texts(alone)
                assert found.finish.seed == seed and not found.finish.speculation.lossy

    asyncio.run(check())


@settings(max_examples=6, deadline=None)
@given(
    model=st.integers(0, 10_000),
    noise=st.sampled_from([0.0, 0.03, 0.1, 0.4]),
    prompt=st.lists(IDS, min_size=1, max_size=20),
    chain=CHAINS,
    ends=ENDS,
)
def test_greedy_text_is_that_of_the_target_alone(
    model: int, noise: float, prompt: list[int], chain: dict, ends: dict
) -> None:
    async def check() -> None:
        asked = {"sampling": {**chain, "temperature": 0.0}, "max_tokens": 30, **ends}
        async with trio(tiny_llama(model), tiny_llama(model, noise=noise), TOKENIZER) as services:
            alone = texts(await services.complete(prompt, **asked))
            for each in GREEDY:
                assert texts(await services.complete(prompt, policy=each, **asked)) == alone

    asyncio.run(check())


async def test_candidates_are_accepted_on_the_way_and_seeds_differ() -> None:
    """Otherwise equal texts would say little."""
    async with trio(tiny_llama(3), tiny_llama(3, noise=0.05), TOKENIZER) as services:
        found, accepted = set(), 0
        for seed in range(12):
            answer = await services.complete(
                [1, 2, 3], policy=policy("fixed", "coupled"), max_tokens=30, sampling={"temperature": 1.0, "seed": seed}
            )
            found.add(tuple(answer.token_ids))
            accepted += answer.finish.speculation.accepted_tokens
        assert len(found) == 12 and accepted > 30


async def test_the_other_rules_promise_the_law_not_the_text() -> None:
    sampling = {"temperature": 1.0, "seed": 4}
    async with trio(tiny_llama(3), tiny_llama(3, noise=0.1), TOKENIZER) as services:
        alone = await services.complete([1, 2, 3], max_tokens=40, sampling=sampling)
        for rule in ("ratio", "block"):
            by_length = [
                await services.complete(
                    [1, 2, 3], policy=policy("fixed", rule, max_tokens=length), max_tokens=40, sampling=sampling
                )
                for length in (2, 5, 5)
            ]
            assert by_length[0].token_ids != by_length[1].token_ids == by_length[2].token_ids
            assert alone.token_ids not in [found.token_ids for found in by_length]


DRAFTS: dict[str, LoadedModel | Drafter | None] = {
    "the target itself": tiny_llama(3),
    "a good one": tiny_llama(3, noise=0.03),
    "a bad one": tiny_llama(3, noise=0.5),
    "one that knows nothing of it": tiny_llama(77),
    "prompt lookup": PromptLookupDrafter(),
    "none": None,
}


@pytest.mark.parametrize("draft", DRAFTS.values(), ids=DRAFTS.keys())
async def test_the_draft_does_not_matter(draft: LoadedModel | Drafter | None) -> None:
    sampling = {"temperature": 0.8, "top_p": 0.95, "seed": 9}
    asked = {"prompt": [5, 6, 5, 6, 5], "sampling": sampling, "max_tokens": 30, "ignore_end_tokens": True}
    async with trio(tiny_llama(3), None, TOKENIZER) as services:
        alone = texts(await services.complete(**asked))
    async with trio(tiny_llama(3), draft, TOKENIZER) as services:
        for each in coupled(random.Random(1)):
            assert texts(await services.complete(policy=each, **asked)) == alone


GRAMMARS = [
    grammar_pb2.Grammar(regex="[!-%]{3,20}"),
    grammar_pb2.Grammar(choices=grammar_pb2.GrammarChoices(texts=["!!!", "#$%", "'()*", "+,-./"])),
]


@pytest.mark.parametrize("grammar", GRAMMARS, ids=["regex", "choices"])
async def test_a_grammar_changes_nothing_about_it(grammar: grammar_pb2.Grammar) -> None:
    async with trio(tiny_llama(3), tiny_llama(3, noise=0.05), TOKENIZER) as services:
        seen = set()
        for seed in range(6):
            asked = {"sampling": {"temperature": 10.0, "seed": seed}, "grammar": grammar, "max_tokens": 30}
            alone = texts(await services.complete([1, 2], **asked))
            for each in coupled(random.Random(seed)):
                assert texts(await services.complete([1, 2], policy=each, **asked)) == alone
            seen.add(alone[0][1])
        assert len(seen) > 1


# Companions and faults.


def _jobs(count: int) -> list[dict]:
    """Requests of all kinds, no two of a kind: greedy and sampled, short and long prompts, one choice and several."""
    drawn = random.Random(5)
    return [
        {
            "prompt": [drawn.randrange(VOCABULARY) for _ in range(drawn.choice([1, 5, 60]))],
            "max_tokens": drawn.randint(20, 60),
            "sampling": {"temperature": drawn.choice([0.0, 0.6, 1.0]), "seed": drawn.getrandbits(64)},
            "ignore_end_tokens": True,
        }
        for _ in range(count)
    ]


def _policies(count: int) -> list[policy_pb2.SpeculationPolicy]:
    return list(itertools.islice(itertools.cycle([OFF, *coupled()]), count))


async def _alone(services: Trio, jobs: Sequence[dict]) -> list[list[Text]]:
    return [texts(await services.complete(**job)) for job in jobs]


async def test_companions_in_the_batch_change_no_text() -> None:
    """Others come and go meanwhile: by lossy rules, with long prompts, and some leave in the middle."""
    jobs = _jobs(22)

    async def noise(services: Trio, number: int) -> None:
        request = make_request(
            [number % VOCABULARY] * 200, speculation=policy("adasd", "adasd"), max_tokens=100, ignore_end_tokens=True,
            sampling={"temperature": 1.0}, priority=number % 3,
        )  # fmt: skip
        call = services.stub.Complete(request, timeout=60.0)
        for _ in range(number):
            await call.read()
        call.cancel()

    async with trio(tiny_llama(3), tiny_llama(3, noise=0.05), TOKENIZER) as services:
        alone = await _alone(services, jobs)
        others = [asyncio.ensure_future(noise(services, number)) for number in range(8)]
        asked = (services.complete(**job, policy=each) for job, each in zip(jobs, _policies(22), strict=True))
        found = [texts(answer) for answer in await asyncio.gather(*asked)]
        await asyncio.gather(*others)
    assert found == alone


async def test_a_cache_that_is_too_small_for_all_changes_no_text() -> None:
    """Sequences give way to each other, and are computed again."""
    jobs = _jobs(13)
    block_bytes = ModelRunner(tiny_llama()).cache.block_bytes
    models = tiny_llama(3), tiny_llama(3, noise=0.05)
    async with trio(*models, TOKENIZER, target_cache_bytes=16 * block_bytes) as services:
        alone = await _alone(services, jobs)
        asked = (services.complete(**job, policy=each) for job, each in zip(jobs, _policies(13), strict=True))
        found = [texts(answer) for answer in await asyncio.gather(*asked)]
        assert services.target_engine.load().preemptions > 0
    assert found == alone


@pytest.mark.parametrize("after", [1, 25])
async def test_a_draft_that_dies_in_the_middle_changes_no_text(after: int) -> None:
    jobs = [{**job, "max_tokens": 100} for job in _jobs(8)]
    async with trio(tiny_llama(3), tiny_llama(3, noise=0.02), TOKENIZER) as services:
        alone = await _alone(services, jobs)
        assert services.draft is not None
        draft, made = services.draft, 0

        async def ask(job: dict, each: policy_pb2.SpeculationPolicy) -> tuple[tuple[int, ...], int]:
            nonlocal made
            tokens: list[int] = []
            failures = 0
            call = services.stub.Complete(make_request(**job, speculation=each), timeout=60.0)
            async for response in call:
                tokens += response.token_ids
                made = max(made, len(tokens))
                failures = response.finish.speculation.draft_failures
            return tuple(tokens), failures

        async def kill() -> None:
            while made < after:
                await asyncio.sleep(0.001)
            draft.grace_seconds = 0
            await draft.drain()

        policies = [policy("fixed", "coupled", max_tokens=3)] * 4 + [policy("adasd", "coupled")] * 4
        asked = (ask(job, each) for job, each in zip(jobs, policies, strict=True))
        *found, _ = await asyncio.gather(*asked, kill())
    assert [tokens for tokens, _ in found] == [text[0][0] for text in alone]
    assert sum(failures for _, failures in found) >= 4


async def test_a_text_that_was_cut_off_is_taken_up_again_with_the_same_seed() -> None:
    """Draws depend on the position: what was generated so far may come back as part of the prompt."""
    sampling = {"temperature": 1.0, "top_p": 0.9, "repetition_penalty": 1.2, "seed": 2**40 + 7}
    async with trio(tiny_llama(3), tiny_llama(3, noise=0.05), TOKENIZER) as services:
        asked = {"sampling": sampling, "ignore_end_tokens": True}
        whole = list((await services.complete([1, 2, 3], max_tokens=50, **asked)).token_ids)
        for cut, each in zip((1, 7, 20, 49), (OFF, *coupled()), strict=False):
            rest = await services.complete([1, 2, 3, *whole[:cut]], policy=each, max_tokens=50 - cut, **asked)
            assert list(rest.token_ids) == whole[cut:]
