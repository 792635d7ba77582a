"""The embedded pair in fp32, over gRPC, on Spec-Bench prompts: greedy text is the target's own to the last token."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from transformers import AutoModelForCausalLM

from tandem.inference.loaded import LoadedModel
from tandem.inference.loading import load_model, tokenizer_folder
from tandem.models import resolve
from tandem.policies import STOP_RULES
from tandem.tokenization import Tokenizer
from tests.support.prompts import spec_bench_prompts
from tests.support.trio import policy, trio

PROMPTS = spec_bench_prompts()
MAX_TOKENS = 20


@cache  # of a test process: loading takes seconds
def _models() -> tuple[LoadedModel, LoadedModel, Tokenizer]:
    target = resolve("embedded:smollm2")
    pair = [load_model(folder, dtype="float32") for folder in (target, resolve("embedded:smollm2-draft"))]
    return pair[0], pair[1], Tokenizer.from_folder(tokenizer_folder(target))


def _ids(tokenizer: Tokenizer, question: int) -> list[int]:
    return tokenizer.apply_chat_template([{"role": "user", "content": PROMPTS[question]}])


@pytest.mark.parametrize(("length", "question"), [*enumerate(PROMPTS, start=1)])
async def test_lossless_greedy_equals_target_only(question: int, length: int) -> None:
    """Blocks of 1 to 20, a length for each prompt, and two other stop rules in turn, so that each has several."""
    target, draft, tokenizer = _models()
    prompt = _ids(tokenizer, question)
    async with trio(target, draft, tokenizer) as services:
        alone = await services.complete(prompt, max_tokens=MAX_TOKENS)
        policies = [policy("fixed", "exact", max_tokens=length)]
        others = [stop for stop in STOP_RULES if stop != "fixed"]
        policies += [policy(others[(2 * length + turn) % len(others)], "exact") for turn in range(2)]
        for each in policies:
            found = await services.complete(prompt, policy=each, max_tokens=MAX_TOKENS)
            assert found.token_ids == alone.token_ids
            report = found.finish.speculation
            assert report.drafted_tokens > 0 and not report.lossy


async def test_target_only_is_transformers_own_text() -> None:
    target, _, tokenizer = _models()
    plain = AutoModelForCausalLM.from_pretrained(resolve("embedded:smollm2").path, dtype=torch.float32)
    async with trio(target, None, tokenizer) as services:
        for question in list(PROMPTS)[:3]:
            prompt = _ids(tokenizer, question)
            found = await services.complete(prompt, max_tokens=MAX_TOKENS)
            generated = plain.generate(torch.tensor([prompt]), max_new_tokens=MAX_TOKENS, do_sample=False)
            assert list(found.token_ids) == generated[0, len(prompt) :].tolist()


async def test_coupled_text_of_a_seed_is_the_same_with_and_without_speculation() -> None:
    target, draft, tokenizer = _models()
    async with trio(target, draft, tokenizer) as services:
        for seed, question in enumerate(list(PROMPTS)[:4]):
            prompt, sampling = _ids(tokenizer, question), {"temperature": 0.8, "top_p": 0.95, "seed": seed}
            alone = await services.complete(prompt, max_tokens=MAX_TOKENS, sampling=sampling)
            for stop in ("adasd", "adaedl"):
                found = await services.complete(
                    prompt, policy=policy(stop, "coupled"), max_tokens=MAX_TOKENS, sampling=sampling
                )
                assert found.token_ids == alone.token_ids
