"""A replica that answers questions but whose streams fail is left alone for a while, and tried again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tandem.rpc.errors import TandemError
from tests.support.fleet import Fleet, fleet, until_idle
from tests.support.trio import policy

BLOCKS = policy("fixed", "exact", max_tokens=3)


@pytest.fixture
async def made() -> AsyncIterator[Fleet]:
    async with fleet() as running:
        yield running


async def test_a_target_whose_streams_fail_is_left_alone_and_used_again_once_it_is_well(made: Fleet) -> None:
    targets = [await made.target() for _ in range(2)]
    orchestrator = await made.orchestrator(targets)
    await orchestrator.until(*targets)
    targets[0].ends = 0
    async with asyncio.timeout(30):
        while (await orchestrator.states())[targets[0].address] == "ready":
            assert len((await orchestrator.complete()).token_ids) == 8
    states = {each.address: each for each in (await orchestrator.load()).targets}
    assert "streams have failed again and again" in states[targets[0].address].problem
    assert orchestrator.metric("tandem_upstream_replicas", service="target", state="failed") == 1
    tried = targets[0].streams
    assert tried >= 3
    await asyncio.gather(*(orchestrator.complete() for _ in range(8)))
    assert targets[0].streams <= tried + 1  # it may have been given its chance by now
    targets[0].ends = None
    before = targets[0].answers
    async with asyncio.timeout(30):
        while targets[0].answers < before + 8:
            await orchestrator.complete()
    await orchestrator.until(*targets)
    await until_idle(*targets)


async def test_a_draft_whose_streams_fail_costs_completions_nothing(made: Fleet) -> None:
    target, draft = await made.target(), await made.draft()
    orchestrator = await made.orchestrator([target], [draft])
    await orchestrator.until(target, draft)
    expected = await orchestrator.complete(max_tokens=300)
    draft.ends = 0
    found = await orchestrator.complete(max_tokens=300, policy=BLOCKS)
    assert found.token_ids == expected.token_ids and found.finish.speculation.draft_failures == 1
    async with asyncio.timeout(30):
        while (await orchestrator.states())[draft.address] == "ready":
            found = await orchestrator.complete(max_tokens=300, policy=BLOCKS)
            assert found.token_ids == expected.token_ids
    assert draft.streams <= 8
    draft.ends = None
    async with asyncio.timeout(30):
        while not (await orchestrator.complete(max_tokens=60, policy=BLOCKS)).finish.speculation.accepted_tokens:
            await asyncio.sleep(0.05)
    await until_idle(target, draft)


async def test_what_is_the_callers_fault_or_want_of_room_opens_no_circuit(made: Fleet) -> None:
    target = await made.target()
    orchestrator = await made.orchestrator([target])
    await orchestrator.until(target)
    wrong = TandemError.invalid_field("open.priority", "is wrong")
    for refusal in (TandemError.overloaded("full", retry_after=0.1), wrong):
        target.refuses = refusal
        for _ in range(5):
            assert (await orchestrator.refusal()).reason == refusal.reason
        target.refuses = None
        assert len((await orchestrator.complete()).token_ids) == 8
