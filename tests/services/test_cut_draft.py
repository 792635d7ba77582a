"""A draft that cannot say everything: texts and laws are the target's, whatever it cannot say."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from typing import Any

import pytest

from tandem.inference.engine import EngineLimits
from tandem.policies import STOP_RULES
from tandem.v1 import completion_pb2, policy_pb2
from tandem.v1.grammar_pb2 import Grammar
from tests.services.test_look_ahead_of_the_draft import LateTarget
from tests.support.pair_law import check_pair_law
from tests.support.tiny import can_say, tiny_llama
from tests.support.tokens import END, byte_tokenizer
from tests.support.trio import Trio, policy, trio

VOCABULARY = 64
TOKENIZER = byte_tokenizer(VOCABULARY)
#: So few that the target often wants others.
FEW = [token for token in range(VOCABULARY) if token % 3]
PROMPT = [1, 2, 3]
LENGTH = 40
SAMPLES = 800
PENALTIES: dict[str, Any] = {"repetition_penalty": 1.3, "presence_penalty": 0.5}
#: Towards what the draft cannot say, and away from much of what it can.
BIAS: dict[str, Any] = {"logit_bias": {3: 4.0, 6: 100.0, 7: -math.inf, 8: -math.inf, 9: -math.inf, 10: 2.0}}
LIGHT_BIAS: dict[str, Any] = {"logit_bias": {3: 4.0, 6: 2.0, 7: -math.inf, 9: -math.inf, 10: 2.0}}


def pair(**services: Any) -> Any:
    return trio(tiny_llama(3), can_say(tiny_llama(3, noise=0.05), FEW), TOKENIZER, **services)


async def ask(services: Trio, rules: policy_pb2.SpeculationPolicy, sampling: dict[str, Any]) -> list[int]:
    """The text by these rules, which is that of the target alone."""
    alone = await services.complete(PROMPT, max_tokens=LENGTH, sampling=sampling)
    found = await services.complete(PROMPT, policy=rules, max_tokens=LENGTH, sampling=sampling)
    assert found.token_ids == alone.token_ids
    report = found.finish.speculation
    assert not report.lossy and report.draft_failures == 0 and report.verify_steps > 0
    return list(found.token_ids)


@pytest.mark.parametrize("stop", STOP_RULES)
@pytest.mark.parametrize("sampling", [{}, PENALTIES, LIGHT_BIAS], ids=["plain", "penalties", "bias"])
async def test_greedy_texts_are_the_targets(stop: str, sampling: dict[str, Any]) -> None:
    async with pair() as services:
        text = await ask(services, policy(stop, "exact"), sampling)
    assert set(text) - set(FEW) and set(text) & set(FEW)


@pytest.mark.parametrize(
    "sampling",
    [{}, {"top_k": 5}, {"min_p": 0.05}, {"top_p": 0.9}, {"top_k": 60}, PENALTIES, BIAS],
    ids=["plain", "top-k", "min-p", "top-p", "top-k beyond", "penalties", "bias"],
)
async def test_coupled_texts_are_the_targets(sampling: dict[str, Any]) -> None:
    accepted = 0
    async with pair() as services:
        for seed in range(3):
            wanted = {"temperature": 1.0, "seed": seed, **sampling}
            await ask(services, policy("fixed", "coupled"), wanted)
            text = await services.complete(
                PROMPT, policy=policy("fixed", "coupled"), max_tokens=LENGTH, sampling=wanted
            )
            accepted += text.finish.speculation.accepted_tokens
    assert accepted > 0 or sampling is BIAS  # which lets the target say one token only, that the draft cannot say


@pytest.mark.parametrize("sayable", [(1, 3), (2,)], ids=["two of four", "one of four"])
@pytest.mark.parametrize(
    ("stop", "accept", "sampling"),
    [
        ("fixed", "ratio", {"temperature": 1.0}),
        ("adaedl", "block", {"temperature": 1.0, "top_k": 3}),
        ("fixed", "ratio", {"temperature": 1.0, "min_p": 0.2, "logit_bias": {0: 1.0, 1: -0.5}}),
        ("fixed", "block", {"temperature": 1.0, "repetition_penalty": 1.3, "presence_penalty": 0.5}),
    ],
)
async def test_sampled_texts_have_the_targets_law(
    stop: str, accept: str, sampling: dict[str, Any], sayable: tuple[int, ...]
) -> None:
    reports = await check_pair_law(policy(stop, accept), samples=SAMPLES, sampling=sampling, sayable=sayable)
    drafted = Counter(bool(report.accepted_tokens) for report in reports)
    assert sum(report.drafted_tokens for report in reports) >= SAMPLES and drafted[False] and drafted[True]


async def test_lossy_rules_take_rows_whose_other_tokens_have_no_probability() -> None:
    """Bracketed from few entries, and decided by full rows where that is not enough: one text."""
    async with pair() as services:
        texts = []
        for entries in (4, VOCABULARY):
            rules = policy("fixed", "adasd")
            rules.max_entries = entries
            found = await services.complete(PROMPT, policy=rules, max_tokens=LENGTH)
            texts.append(list(found.token_ids))
            assert found.finish.speculation.draft_failures == 0
    assert texts[0] == texts[1]


@pytest.mark.parametrize("accept", ["exact", "coupled", "ratio"])
async def test_a_draft_that_can_say_nothing_that_may_follow_leaves_it_to_the_target(accept: str) -> None:
    """A bias forbids all that it can say: its blocks are empty, and no failure."""
    forbidden = {"logit_bias": dict.fromkeys(FEW, -math.inf)}
    sampling = {"temperature": 0.0 if accept == "exact" else 1.0, "seed": 4, **forbidden}
    async with pair() as services:
        found = await services.complete(PROMPT, policy=policy("fixed", accept), max_tokens=LENGTH, sampling=sampling)
    report = found.finish.speculation
    assert len(found.token_ids) == LENGTH and not set(found.token_ids) & set(FEW)
    assert report.draft_failures == 0 and report.drafted_tokens == 0


@pytest.mark.parametrize("accept", ["exact", "ratio"])
async def test_a_grammar_whose_tokens_the_draft_cannot_all_say_is_followed(accept: str) -> None:
    tokenizer = byte_tokenizer(257, ends=(END,))
    said = [token for token in range(1, 257) if token - 1 not in b"bd"]
    draft = can_say(tiny_llama(3, vocabulary=257, noise=0.1), said)
    async with trio(tiny_llama(3, vocabulary=257), draft, tokenizer) as services:
        for seed in range(4):
            found = await services.complete(
                PROMPT,
                policy=policy("fixed", accept),
                max_tokens=60,
                grammar=Grammar(regex="(ab|cd){4}e[b-d]{3}"),
                sampling={"temperature": 0.0 if accept == "exact" else 1.0, "seed": seed},
            )
            assert found.finish.reason == completion_pb2.FINISH_REASON_STOP, found.text
            assert found.text[8] == "e" and len(found.text) == 12
            assert found.finish.speculation.draft_failures == 0 < found.finish.speculation.drafted_tokens


@pytest.mark.parametrize("accept", ["exact", "coupled", "ratio"])
async def test_look_ahead_changes_no_text(accept: str) -> None:
    """Also where the draft can say nothing behind what it foresees."""
    for sampling in ({}, {"logit_bias": dict.fromkeys(FEW[2:], -math.inf)}):
        asked = {"temperature": 0.0 if accept == "exact" else 1.0, "seed": 5, **sampling}
        texts = []
        async with pair(draft_limits=EngineLimits(ahead_rows=16), serve_target=LateTarget) as services:
            for look_ahead in (None, 0):
                rules = policy("fixed", accept, max_tokens=3)
                if look_ahead is not None:
                    rules.look_ahead = look_ahead
                found = await asyncio.wait_for(
                    services.complete(PROMPT, policy=rules, max_tokens=LENGTH, sampling=asked), 60
                )
                texts.append(list(found.token_ids))
                assert found.finish.speculation.draft_failures == 0
        assert texts[0] == texts[1]
