"""Trees, budgets of candidates, drafters without a model and a model in the middle: what goes together does so without
changing a text, and what does not is refused by its field."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tandem.inference.engine import EngineLimits
from tandem.rpc.channels import connect
from tandem.rpc.handshake import make_handshake
from tandem.v1 import grammar_pb2, policy_pb2, target_pb2, target_pb2_grpc
from tests.services.test_streams import Talk
from tests.support.drafters import make
from tests.support.pair_law import VOCABULARY as FEW
from tests.support.pair_law import check_pair_law
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import make_request, policy, trio

TOKENIZER = byte_tokenizer(64)
PROMPT = [5, 6, 5, 6, 5]
GREEDY, RATIO, BLOCK, COUPLED = 1, 2, 3, 4
OPEN = {"handshake": make_handshake(), "prompt_token_ids": [1, 2, 3], "drafts": True, "format": {"max_entries": 8}}
WITHOUT_MODEL = ["prompt-lookup", "suffix", "stand", "prompt-lookup+stand+model"]


def both(rules: policy_pb2.SpeculationPolicy) -> policy_pb2.SpeculationPolicy:
    rules.stack = policy_pb2.STACK_BOTH
    return rules


async def test_a_tree_is_verified_whole_beside_a_budget() -> None:
    tree = policy("fixed", "exact", max_tokens=4, tree_nodes=9)
    one, other = [1, 2, 3], [4, 2, 3]
    limits = EngineLimits(candidates=2)
    async with trio(tiny_llama(1), tiny_llama(1, noise=0.1), TOKENIZER, target_limits=limits) as services:
        alone = [await services.complete(prompt, max_tokens=60) for prompt in (one, other)]
        found = await asyncio.gather(
            services.complete(one, policy=tree, max_tokens=60),
            services.complete(other, policy=policy("fixed", "exact"), max_tokens=60),
        )
    assert [list(each.token_ids) for each in found] == [list(each.token_ids) for each in alone]
    of_tree, of_path = (each.finish.speculation for each in found)
    assert of_tree.unsubmitted_tokens == 0 and of_tree.drafted_tokens > 4 * of_tree.verify_steps
    assert of_path.unsubmitted_tokens > 0 and of_path.drafted_tokens <= 2 * of_path.verify_steps


async def test_a_tree_has_no_middle_model() -> None:
    middle = tiny_llama(1, noise=0.03)
    tokenizer = byte_tokenizer(64, ends=(63,))  # a grammar ends with a token
    async with trio(tiny_llama(1), tiny_llama(1, noise=0.1), tokenizer, middle=middle) as services:
        alone = await services.complete([1, 2, 3], max_tokens=30)
        for _ in range(3):  # a stack that nothing is known of would have been tried
            rules = policy("fixed", "exact", max_tokens=4, tree_nodes=9)
            found = await services.complete([1, 2, 3], policy=rules, max_tokens=30)
            assert found.token_ids == alone.token_ids
            assert not found.finish.speculation.HasField("middle")
        for fields in (
            {"speculation": both(policy("fixed", "exact", tree_nodes=9))},
            {"speculation": both(policy("fixed", "exact")), "grammar": grammar_pb2.Grammar(regex="(!#)+")},
        ):
            error = await services.refusal(make_request([1, 2, 3], max_tokens=8, **fields))
            assert (error.reason, error.field) == ("NOT_SUPPORTED", "speculation.stack")


@pytest.mark.parametrize("name", WITHOUT_MODEL)
async def test_any_drafter_may_stand_below_a_middle_model(name: str) -> None:
    draft = make(name, tiny_llama(2, noise=0.1), TOKENIZER)
    async with trio(tiny_llama(2), draft, TOKENIZER, middle=tiny_llama(2, noise=0.03)) as services:
        for rules, wanted in (
            (policy("fixed", "exact", max_tokens=6), {"max_tokens": 90}),
            (policy("fixed", "coupled", max_tokens=6), {"max_tokens": 60, "sampling": {"temperature": 0.4, "seed": 4}}),
        ):
            alone = await services.complete(PROMPT, **wanted)
            found = await services.complete(PROMPT, policy=both(rules), **wanted)
            report = found.finish.speculation
            assert found.token_ids == alone.token_ids
            assert report.accepted_tokens > 0 and report.draft_failures == 0
            assert report.middle.accepted_tokens > 0 and report.middle.draft_failures == 0


@pytest.mark.parametrize("name", ["suffix", "stand"])
async def test_the_law_above_a_drafter_without_a_model_and_a_middle_is_the_targets(name: str) -> None:
    """Those that learn share what they have learnt: a completion of four tokens would end before it is of use."""
    reports = await check_pair_law(
        both(policy("fixed", "ratio", max_tokens=3)),
        samples=250,
        max_tokens=5,
        drafter=lambda model: make(name, model, byte_tokenizer(FEW), share_ngrams=name == "stand"),
        middle=tiny_llama(11, vocabulary=FEW, noise=0.3),
    )
    assert sum(report.middle.drafted_tokens for report in reports) > 10


# What the target refuses of a caller for which it drafts.


@pytest.fixture
async def target() -> AsyncIterator[Any]:
    async with trio(tiny_llama(1), None, TOKENIZER) as services, connect(services.target.address) as channel:
        stub = target_pb2_grpc.TargetServiceStub(channel)
        yield lambda: Talk(stub.Verify(), target_pb2.VerifyRequest)


@pytest.mark.parametrize("rule", [GREEDY, RATIO, BLOCK, COUPLED])
async def test_no_tree_is_verified_for_another_model(target: Any, rule: int) -> None:
    talk = target()
    await talk.ask(open=OPEN | {"verification": rule, "sampling": {"temperature": float(rule != GREEDY)}})
    block = {"position": 3, "token_ids": [4, 5], "parents": [-1, -1]}
    error = await talk.refusal(round={"round": 1, "continuation": {"position": 3}, "block": block})
    assert (error.reason, error.field) == ("INVALID_FIELD", "round.block.parents")


@pytest.mark.parametrize("rule", [RATIO, BLOCK])
async def test_the_law_of_a_text_is_not_cut_otherwise_on_its_way(target: Any, rule: int) -> None:
    for kind, rest in (("round", {"block": {"position": 3}}), ("generate", {"max_tokens": 1})):
        talk = target()
        await talk.ask(open=OPEN | {"verification": rule, "sampling": {"temperature": 1.0}})
        asked = {"round": 1, "continuation": {"position": 3}, "format": {"max_entries": 2}} | rest
        error = await talk.refusal(**{kind: asked})
        assert (error.reason, error.field) == ("INVALID_FIELD", f"{kind}.format")


async def test_where_ids_are_enough_more_of_p_may_be_asked_for(target: Any) -> None:
    talk = target()
    await talk.ask(open=OPEN | {"verification": GREEDY})
    asked = {"round": 1, "continuation": {"position": 3}, "format": {"max_entries": 2}, "block": {"position": 3}}
    [row] = (await talk.ask(round=asked)).verified.distributions
    assert len(row.token_ids) == 2 * 4
