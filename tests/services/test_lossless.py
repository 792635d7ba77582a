"""Lossless rules, end to end over gRPC: the text (or its law) is that of the target alone."""

from __future__ import annotations

import asyncio
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from draft_service.drafters.prompt_lookup import PromptLookupDrafter
from tandem.policies import STOP_RULES
from tests.support.pair_law import check_pair_law
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import OFF, Trio, policy, trio

VOCABULARY = 64
TOKENIZER = byte_tokenizer(VOCABULARY)
SAMPLES = 250


@settings(max_examples=4, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    noise=st.sampled_from([0.0, 0.02, 0.1, 0.4]),
    prompt=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12),
    lengths=st.lists(st.integers(1, 20), min_size=2, max_size=2, unique=True),
)
def test_lossless_greedy_equals_target_only(seed: int, noise: float, prompt: list[int], lengths: list[int]) -> None:
    async def check() -> None:
        target, draft = tiny_llama(seed), tiny_llama(seed, noise=noise)
        async with trio(target, draft, TOKENIZER) as services:
            alone = await services.complete(prompt, max_tokens=32)
            policies = [policy(stop, "exact") for stop in STOP_RULES]
            policies += [policy("fixed", "exact", max_tokens=length) for length in lengths]
            for each in policies:
                found = await services.complete(prompt, policy=each, max_tokens=32)
                assert found.token_ids == alone.token_ids
                assert not found.finish.speculation.lossy and found.finish.speculation.verify_steps > 0

    asyncio.run(check())


async def test_greedy_equals_transformers_own_greedy_text() -> None:
    target = tiny_llama(5)
    plain = tiny_llama(5).model
    prompt = [7, 8, 9]
    async with trio(target, tiny_llama(5, noise=0.05), TOKENIZER) as services:
        found = await services.complete(prompt, policy=policy("adasd"), max_tokens=40)
    text = list(prompt)
    for _ in range(40):
        text.append(int(plain(torch.tensor([text])).logits[0, -1].argmax()))
    assert found.token_ids == text[3:]


@pytest.mark.parametrize(
    "penalties",
    [
        {"repetition_penalty": 1.3},
        {"presence_penalty": 1.5, "frequency_penalty": 0.7},
        {"logit_bias": {50: -math.inf, 9: 2.0}},
    ],
)
async def test_greedy_with_penalties_equals_target_only(penalties: dict[str, object]) -> None:
    async with trio(tiny_llama(1), tiny_llama(1, noise=0.05), TOKENIZER) as services:
        alone = await services.complete([1, 2, 3], max_tokens=40, sampling=penalties)
        plain = await services.complete([1, 2, 3], max_tokens=40)
        found = await services.complete([1, 2, 3], policy=policy("fixed"), max_tokens=40, sampling=penalties)
    assert found.token_ids == alone.token_ids != plain.token_ids


async def test_prompt_lookup_is_lossless_and_accepts_repetitions() -> None:
    async with trio(tiny_llama(2), PromptLookupDrafter(), TOKENIZER) as services:
        alone = await services.complete([5, 6, 5, 6, 5], max_tokens=80)
        found = await services.complete([5, 6, 5, 6, 5], policy=policy("fixed"), max_tokens=80)
        sampled = {
            accept: await services.complete(
                [5, 6, 5, 6, 5], policy=policy("fixed", accept), max_tokens=40, sampling={"temperature": 0.5, "seed": 4}
            )
            for accept in ("ratio", "block", "coupled")
        }
        coupled = await services.complete([5, 6, 5, 6, 5], max_tokens=40, sampling={"temperature": 0.5, "seed": 4})
    assert found.token_ids == alone.token_ids
    assert found.finish.speculation.accepted_tokens > 0
    assert all(len(each.token_ids) == 40 for each in sampled.values())
    assert sampled["coupled"].token_ids == coupled.token_ids


@pytest.mark.parametrize(
    "sampling", [{"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.9}, {"temperature": 1.2, "top_k": 9}]
)
async def test_coupled_gives_one_text_for_a_seed_with_and_without_speculation(sampling: dict[str, float]) -> None:
    async with trio(tiny_llama(3), tiny_llama(3, noise=0.05), TOKENIZER) as services:
        for seed in (0, 2**64 - 1):
            with_seed = {**sampling, "seed": seed}
            alone = await services.complete([1, 2, 3], max_tokens=30, sampling=with_seed)
            accepted = 0
            policies = [policy(stop, "coupled") for stop in STOP_RULES]
            policies += [policy("fixed", "coupled", max_tokens=length) for length in (1, 3, 11, 20)]
            for each in policies:
                found = await services.complete([1, 2, 3], policy=each, max_tokens=30, sampling=with_seed)
                assert found.token_ids == alone.token_ids
                accepted += found.finish.speculation.accepted_tokens
            assert accepted > 0


async def test_a_seed_gives_the_same_text_alone_and_beside_other_requests() -> None:
    async def ask(services: Trio, seed: int, accept: str) -> list[int]:
        answer = await services.complete(
            [seed % 7, 2, 3],
            policy=policy("adasd", accept),
            max_tokens=24,
            sampling={"temperature": 0.9, "seed": seed},
        )
        return list(answer.token_ids)

    async with trio(tiny_llama(3), tiny_llama(3, noise=0.1), TOKENIZER) as services:
        jobs = list(itertools.product(range(6), ("ratio", "block", "coupled", "adasd", "adasd-kde")))
        alone = [await ask(services, *job) for job in jobs]
        together = await asyncio.gather(*(ask(services, *job) for job in jobs))
        assert together == alone
        assert len({tuple(text) for text in alone}) > 6


@pytest.mark.parametrize(
    ("stop", "accept", "sampling"),
    [
        ("fixed", "ratio", {"temperature": 1.0}),
        ("adaedl", "block", {"temperature": 1.0}),
        ("confidence", "ratio", {"temperature": 1.0, "top_p": 0.9}),
        ("adasd", "coupled", {"temperature": 1.0}),
    ],
)
async def test_lossless_in_distribution_over_grpc(stop: str, accept: str, sampling: dict[str, float]) -> None:
    reports = await check_pair_law(policy(stop, accept), samples=SAMPLES, sampling=sampling)
    assert sum(report.drafted_tokens for report in reports) >= SAMPLES


async def test_off_does_not_need_a_draft() -> None:
    async with trio(tiny_llama(1), None, TOKENIZER) as services:
        alone = await services.complete([1, 2], policy=OFF, max_tokens=9)
        default = await services.complete([1, 2], policy=policy("adasd", "adasd"), max_tokens=9)
    assert len(alone.token_ids) == 9 and alone.token_ids == default.token_ids
