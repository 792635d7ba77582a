"""A service that is full, or whose cache is too small, says so to the one it concerns; the others go on."""

from __future__ import annotations

import asyncio

import grpc

from tandem.inference.engine import EngineLimits
from tandem.inference.runner import ModelRunner
from tandem.rpc.errors import TandemError
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import OFF, make_request, policy, trio

TOKENIZER = byte_tokenizer(64)
_BLOCK_BYTES = ModelRunner(tiny_llama()).cache.block_bytes


async def test_a_full_target_tells_callers_when_to_come_back_and_takes_them_then() -> None:
    limits = EngineLimits(max_sequences=1)
    async with trio(tiny_llama(1), None, TOKENIZER, target_limits=limits) as services:
        held = await services.target_engine.open()
        error = await services.refusal(make_request([1, 2], speculation=OFF, max_tokens=4))
        assert (error.reason, error.code) == ("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert error.retry_after is not None and 0 < error.retry_after <= 30
        await services.target_engine.release(held)
        assert len((await services.complete([1, 2], max_tokens=4)).token_ids) == 4


async def test_a_full_draft_costs_no_token() -> None:
    async with trio(
        tiny_llama(1), tiny_llama(1, noise=0.02), TOKENIZER, draft_limits=EngineLimits(max_sequences=1)
    ) as services:
        assert services.draft_engine is not None
        alone = await services.complete([1, 2], max_tokens=40)
        held = await services.draft_engine.open()
        speculating = await services.complete([1, 2], policy=policy("fixed", "exact"), max_tokens=40)
        assert speculating.token_ids == alone.token_ids
        assert speculating.finish.speculation.draft_failures == 1
        await services.draft_engine.release(held)
        speculating = await services.complete([1, 2], policy=policy("fixed", "exact"), max_tokens=40)
        assert speculating.token_ids == alone.token_ids
        assert speculating.finish.speculation.accepted_tokens > 5


async def test_a_prompt_that_the_cache_cannot_hold_fails_alone() -> None:
    async with trio(tiny_llama(1), None, TOKENIZER, target_cache_bytes=4 * _BLOCK_BYTES) as services:
        load = services.target_engine.load()
        assert load.cache_capacity_bytes == 4 * _BLOCK_BYTES
        expected = await services.complete([1, 2], max_tokens=20)
        results = await asyncio.gather(
            services.complete([5] * 100, max_tokens=4),
            services.complete([1, 2], max_tokens=20),
            return_exceptions=True,
        )
        assert isinstance(results[0], grpc.aio.AioRpcError)
        error = TandemError.from_rpc_error(results[0])
        assert (error.reason, error.code) == ("OUT_OF_MEMORY", grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert "--cache-bytes" in error.message and "64" in error.message
        assert results[1].token_ids == expected.token_ids


async def test_callers_who_outgrow_the_cache_together_get_the_tokens_they_get_alone() -> None:
    async with trio(
        tiny_llama(1), tiny_llama(1, noise=0.02), TOKENIZER, target_cache_bytes=8 * _BLOCK_BYTES
    ) as services:
        prompts = [[number, 2, 3] for number in range(5)]
        expected = [await services.complete(prompt, max_tokens=70) for prompt in prompts]
        together = await asyncio.gather(
            *(services.complete(prompt, policy=policy("fixed", "exact"), max_tokens=70) for prompt in prompts)
        )
        assert [result.token_ids for result in together] == [result.token_ids for result in expected]
        assert services.target_engine.load().preemptions > 0
