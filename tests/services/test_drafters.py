"""Every drafter, alone and behind others, through the three services: texts and laws are the target's own."""

from __future__ import annotations

from typing import Any

import pytest

from tandem.v1 import grammar_pb2
from tests.support.drafters import NAMES, make
from tests.support.pair_law import VOCABULARY as FEW
from tests.support.pair_law import check_pair_law
from tests.support.tiny import tiny_llama
from tests.support.tokens import END, byte_tokenizer
from tests.support.trio import OFF, policy, trio

TOKENIZER = byte_tokenizer(64)
PROMPT = [5, 6, 5, 6, 5]
SAMPLED = {"temperature": 0.4, "seed": 4}


@pytest.mark.parametrize("name", NAMES)
async def test_greedy_and_coupled_texts_are_the_targets(name: str) -> None:
    asked: list[dict[str, Any]] = [{"max_tokens": 90}, {"max_tokens": 60, "sampling": SAMPLED}]
    rules = [[policy("fixed", "exact"), policy("adasd", "ratio")], [policy("fixed", "coupled")]]
    async with trio(tiny_llama(2), make(name, tiny_llama(2, noise=0.1), TOKENIZER), TOKENIZER) as services:
        for wanted, policies in zip(asked, rules, strict=True):
            alone = await services.complete(PROMPT, **wanted)
            for each in policies:
                found = await services.complete(PROMPT, policy=each, **wanted)
                report = found.finish.speculation
                assert found.token_ids == alone.token_ids
                assert report.draft_failures == 0 and report.accepted_tokens > 0 and not report.lossy


async def test_lossless_in_distribution_over_grpc() -> None:
    """Those that learn share what they have learnt: a completion of four tokens would end before it is of use. What the
    law of a text is given all that others have taught them is the target's own."""
    tokenizer = byte_tokenizer(FEW)
    reports = await check_pair_law(
        policy("fixed", "block", max_tokens=3),
        samples=250,
        max_tokens=5,
        drafter=lambda model: make("suffix+stand+model", model, tokenizer, share_ngrams=True),
    )
    assert sum(report.drafted_tokens for report in reports) > 300
    assert sum(report.accepted_tokens for report in reports) > 50


async def test_lossy_rules_work_on_laws_without_a_tail() -> None:
    """No full rows are to be had, and none are asked for."""
    for name in ("suffix", "stand", "stand+model"):
        async with trio(tiny_llama(2), make(name, tiny_llama(2, noise=0.1), TOKENIZER), TOKENIZER) as services:
            for sampling in ({}, SAMPLED):
                found = await services.complete(
                    PROMPT, policy=policy("adasd", "adasd"), max_tokens=60, sampling=sampling
                )
                assert len(found.token_ids) == 60 and found.finish.speculation.draft_failures == 0


async def test_a_text_follows_its_grammar_whatever_drafts() -> None:
    grammar = grammar_pb2.Grammar(regex="(!#!%){6,9}")
    asked = {"max_tokens": 40, "sampling": {"temperature": 5.0, "seed": 1}, "grammar": grammar}
    tokenizer = byte_tokenizer(64, ends=(END,))
    for name in ("suffix", "stand+model", "suffix+model"):
        async with trio(tiny_llama(3), make(name, tiny_llama(3, noise=0.1), tokenizer), tokenizer) as services:
            alone = await services.complete([1, 2], policy=OFF, **asked)
            found = await services.complete([1, 2], policy=policy("fixed", "coupled"), **asked)
            assert found.token_ids == alone.token_ids and found.finish.speculation.accepted_tokens > 0
