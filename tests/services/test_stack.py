"""A stack of draft, middle and target over gRPC: texts and laws are the target's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from draft_service.server import DraftServicer
from tandem.v1 import completion_pb2, policy_pb2
from target_service.server import TargetServicer
from tests.support.pair_law import VOCABULARY, check_pair_law
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import Trio, make_request, policy, trio

TOKENIZER = byte_tokenizer(64)
STACKS = {"draft": policy_pb2.STACK_DRAFT, "middle": policy_pb2.STACK_MIDDLE, "both": policy_pb2.STACK_BOTH}


def tower(**options: Any) -> Any:
    return trio(tiny_llama(1), tiny_llama(1, noise=0.1), TOKENIZER, middle=tiny_llama(1, noise=0.03), **options)


def stacked(stack: str, stop: str = "fixed", accept: str = "exact", **options: float) -> policy_pb2.SpeculationPolicy:
    rules = policy(stop, accept, **options)
    rules.stack = STACKS[stack]
    return rules


async def ask(
    services: Trio, rules: policy_pb2.SpeculationPolicy, sampling: dict[str, object], tokens: int = 40
) -> completion_pb2.CompleteOnceResponse:
    return await services.complete([1, 2, 3], policy=rules, max_tokens=tokens, sampling=sampling)


@pytest.mark.parametrize("stop", ["fixed", "adasd", "adaedl", "entropy", "goodput"])
async def test_greedy_texts_are_the_targets(stop: str) -> None:
    async with tower() as services:
        alone = await services.complete([1, 2, 3], max_tokens=40)
        for stack in STACKS:
            found = await ask(services, stacked(stack, stop), {})
            report = found.finish.speculation
            assert found.token_ids == alone.token_ids, stack
            assert report.accepted_tokens > 0 and report.draft_failures == 0
            assert report.HasField("middle") == (stack != "draft")
            if stack == "both":
                assert report.middle.accepted_tokens > 0 and report.middle.draft_failures == 0
            if stack == "middle":
                assert report.middle.verify_steps == 0 and report.middle.plain_tokens >= report.drafted_tokens


async def test_a_middle_that_agrees_with_the_target_is_believed_more_than_the_draft() -> None:
    async with tower() as services:
        rates = {
            stack: (await ask(services, stacked(stack, max_tokens=4), {}, 80)).finish.speculation.draft_acceptance_rate
            for stack in STACKS
        }
    assert rates["both"] == pytest.approx(rates["middle"], abs=0.1)
    assert rates["both"] > rates["draft"]


async def test_coupled_texts_are_those_of_their_seeds() -> None:
    async with tower() as services:
        for seed in range(3):
            sampling: dict[str, object] = {"temperature": 0.8, "seed": seed}
            alone = await services.complete([1, 2, 3], max_tokens=40, sampling=sampling)
            for stack in STACKS:
                found = await ask(services, stacked(stack, accept="coupled"), sampling)
                assert found.token_ids == alone.token_ids
                assert found.finish.speculation.accepted_tokens > 0


@pytest.mark.parametrize(("stack", "accept"), [("middle", "ratio"), ("both", "ratio"), ("both", "block")])
async def test_the_law_of_sampled_texts_is_the_targets(stack: str, accept: str) -> None:
    rules = stacked(stack, accept=accept, max_tokens=3)
    between = tiny_llama(11, vocabulary=VOCABULARY, noise=0.3)
    reports = await check_pair_law(rules, samples=250, middle=between)
    assert sum(report.drafted_tokens for report in reports) > 400
    assert all(report.HasField("middle") for report in reports)


async def test_many_callers_at_once_get_their_own_texts() -> None:
    async with tower() as services:

        async def text(seed: int, rules: policy_pb2.SpeculationPolicy) -> list[int]:
            found = await ask(services, rules, {"temperature": 0.9, "seed": seed}, 24)
            return list(found.token_ids)

        for accept in ("ratio", "block", "coupled"):
            rules = stacked("both", accept=accept)
            alone = [await text(seed, rules) for seed in range(4)]
            # Lengths of the draft's blocks depend on times, and under the first two the text on lengths.
            together = await asyncio.gather(*(text(seed, rules) for seed in range(4)))
            assert [len(each) for each in together] == [24] * 4
            if accept == "coupled":
                assert together == alone


async def test_a_lossy_rule_and_penalties_work_on_a_stack() -> None:
    async with tower() as services:
        for temperature in (0.0, 0.8):
            sampling: dict[str, object] = {"temperature": temperature, "seed": 3, "frequency_penalty": 0.5}
            found = await ask(services, stacked("both", "adasd", "adasd"), sampling)
            assert len(found.token_ids) == 40
        alone = await services.complete([1, 2, 3], max_tokens=40, sampling={"frequency_penalty": 0.5})
        found = await ask(services, stacked("both"), {"frequency_penalty": 0.5})
        assert found.token_ids == alone.token_ids


class Breaking(TargetServicer):
    """Breaks in its fifth round."""

    rounds = 0

    async def _verify(self, *arguments: Any) -> Any:
        self.rounds += 1
        if self.rounds >= 5:
            raise RuntimeError("broken")
        return await super()._verify(*arguments)


async def test_a_middle_that_breaks_costs_no_token() -> None:
    async with tower(serve_middle=Breaking) as services:
        alone = await services.complete([1, 2, 3], max_tokens=60)
        found = await ask(services, stacked("both", max_tokens=3), {}, 60)
        again = await ask(services, stacked("both", max_tokens=3), {}, 60)
    assert found.token_ids == again.token_ids == alone.token_ids
    report = found.finish.speculation
    assert report.draft_failures == 1 and report.middle.verify_steps > 0
    assert report.drafted_tokens > report.middle.verify_steps * 4  # the draft by itself, after that


class Stumbling(DraftServicer):
    """Breaks its first stream off in the third round."""

    streams = 0

    async def Draft(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        self.streams += 1
        breaks = self.streams == 1

        async def requests() -> AsyncIterator[Any]:
            said = 0
            async for request in request_iterator:
                said += 1
                if breaks and said == 4:
                    raise RuntimeError("stumbles")
                yield request

        async with aclosing(super().Draft(requests(), context)) as responses:
            async for response in responses:
                yield response


async def test_a_draft_below_the_middle_comes_back_to_a_text_that_has_changed_meanwhile() -> None:
    async with tower(serve_draft=Stumbling) as services:
        alone = await services.complete([1, 2, 3], max_tokens=400)
        found = await ask(services, stacked("both", max_tokens=6), {}, 400)
    assert found.token_ids == alone.token_ids
    report = found.finish.speculation
    assert report.draft_failures == 0 and report.middle.draft_failures == 1
    assert report.middle.drafted_tokens > 40 and report.middle.plain_tokens > 0


async def test_a_draft_below_the_middle_that_is_not_there_costs_no_token() -> None:
    async with trio(tiny_llama(1), None, TOKENIZER, middle=tiny_llama(1, noise=0.03)) as services:
        alone = await services.complete([1, 2, 3], max_tokens=40)
        for rules in (stacked("both"), stacked("middle"), policy("fixed", "exact")):
            found = await ask(services, rules, {})
            assert found.token_ids == alone.token_ids
            assert found.finish.speculation.accepted_tokens > 0


async def test_what_cannot_be_had_is_refused_by_its_field() -> None:
    request = make_request([1, 2], speculation=stacked("both"), max_tokens=4)
    async with trio(tiny_llama(1), tiny_llama(1, noise=0.1), TOKENIZER) as services:
        error = await services.refusal(request)
        assert (error.reason, error.field) == ("NOT_SUPPORTED", "speculation.stack")
    async with tower() as services:
        off = policy_pb2.SpeculationPolicy(off=True, stack=policy_pb2.STACK_BOTH)
        error = await services.refusal(make_request([1, 2], speculation=off, max_tokens=4))
        assert (error.reason, error.field) == ("INVALID_FIELD", "speculation.stack")


async def test_the_stack_that_is_not_named_is_chosen_by_what_was_measured() -> None:
    async with tower() as services:
        seen = set()
        for _ in range(12):
            found = await ask(services, policy("fixed", "exact", max_tokens=4), {}, 24)
            seen.add(found.finish.speculation.HasField("middle"))
    assert seen == {True, False}
