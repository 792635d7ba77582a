"""A draft that cannot say everything: texts and laws are the target's, whatever it cannot say."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
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
SAMPLES = 250
PENALTIES: dict[str, Any] = {"repetition_penalty": 1.3, "presence_penalty": 0.5}
#: Towards tokens that the draft cannot say, and away from some that it can.
BIAS: dict[str, Any] = {"logit_bias": {3: 3.0, 6: 2.0, 7: -math.inf, 10: -math.inf, 11: 2.0}}


def pair(**services: Any) -> Any:
    return trio(tiny_llama(3), can_say(tiny_llama(3, noise=0.05), FEW), TOKENIZER, **services)


async def check_same(
    services: Trio, policies: Sequence[policy_pb2.SpeculationPolicy], sampling: dict[str, Any]
) -> tuple[set[int], int]:
    """By all of them the text is that of the target alone. Returns its tokens, and how many candidates were kept."""
    alone = await services.complete(PROMPT, max_tokens=LENGTH, sampling=sampling)
    accepted = 0
    for rules in policies:
        found = await services.complete(PROMPT, policy=rules, max_tokens=LENGTH, sampling=sampling)
        assert found.token_ids == alone.token_ids
        report = found.finish.speculation
        assert not report.lossy and report.draft_failures == 0
        accepted += report.accepted_tokens
    return set(alone.token_ids), accepted


@pytest.mark.parametrize("sampling", [{}, PENALTIES, BIAS], ids=["plain", "penalties", "bias"])
async def test_greedy_texts_are_the_targets(sampling: dict[str, Any]) -> None:
    async with pair() as services:
        said, accepted = await check_same(services, [policy(stop, "exact") for stop in STOP_RULES], sampling)
    assert said - set(FEW) and said & set(FEW) and accepted > 0


async def test_coupled_texts_are_the_targets() -> None:
    cuts = ({}, {"top_k": 5}, {"min_p": 0.05}, {"top_p": 0.9}, {"top_k": 60}, PENALTIES, BIAS)
    async with pair() as services:
        for seed, cut in enumerate(cuts):
            sampling = {"temperature": 1.0, "seed": seed, **cut}
            said, accepted = await check_same(services, [policy("fixed", "coupled")], sampling)
            assert said - set(FEW) and said & set(FEW) and accepted > 0, cut


async def test_a_token_that_only_the_target_can_say_is_said_by_it_alone() -> None:
    """However likely a bias makes it."""
    sampling = {"logit_bias": {6: 100.0}}
    async with pair() as services:
        said, accepted = await check_same(services, [policy("fixed", "exact"), policy("adasd", "exact")], sampling)
    assert said == {6} and 6 not in FEW and accepted == 0


@pytest.mark.parametrize(
    ("stop", "accept", "sampling", "sayable"),
    [
        ("fixed", "ratio", {"temperature": 1.0}, (1, 3)),
        ("adaedl", "block", {"temperature": 1.0, "top_k": 3}, (0, 1)),
        ("fixed", "ratio", {"temperature": 1.0, "min_p": 0.05, "logit_bias": {0: 2.0, 2: 2.0, 1: -0.5}}, (2, 3)),
        ("fixed", "block", {"temperature": 1.0, "repetition_penalty": 1.3, "presence_penalty": 0.5}, (3,)),
    ],
    ids=["plain", "top-k", "min-p and bias", "penalties, one token"],
)
async def test_sampled_texts_have_the_targets_law(
    stop: str, accept: str, sampling: dict[str, Any], sayable: tuple[int, ...]
) -> None:
    reports = await check_pair_law(policy(stop, accept), samples=SAMPLES, sampling=sampling, sayable=sayable)
    kept = Counter(report.accepted_tokens > 0 for report in reports)
    assert sum(report.drafted_tokens for report in reports) >= SAMPLES and kept[False] and kept[True]


async def test_lossy_rules_take_rows_whose_other_tokens_have_no_probability() -> None:
    """Bracketed from few entries, and decided by full rows where that is not enough: one text."""
    texts, fetched, vocabulary = [], 0, 512  # eight entries of so many leave wide brackets
    rules = policy("fixed", "jsd", threshold=0.6)
    for entries in (8, 65536):
        for seed in range(3):
            draft = can_say(tiny_llama(seed, vocabulary=vocabulary, noise=0.05), range(0, vocabulary, 2))
            target = tiny_llama(seed, vocabulary=vocabulary)
            async with trio(target, draft, byte_tokenizer(vocabulary), bracket_entries=entries) as services:
                found = await services.complete([1, 2], policy=rules, max_tokens=LENGTH)
            texts.append(list(found.token_ids))
            report = found.finish.speculation
            assert report.draft_failures == 0 < report.accepted_tokens
            fetched += report.full_rows if entries == 8 else 0
    assert texts[:3] == texts[3:] and fetched > 0


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
    for sampling in ({}, *({"logit_bias": dict.fromkeys(FEW[left:], -math.inf)} for left in (2, 0))):
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
