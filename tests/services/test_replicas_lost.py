"""Replicas that go and come back: new requests see nothing of it as long as one is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from tandem.rpc.errors import TandemError
from tests.support.fleet import Fleet, Orchestrator, Service, fleet, rest_of
from tests.support.trio import make_request, policy

BLOCKS = policy("fixed", "exact", max_tokens=3)


@pytest.fixture
async def made() -> AsyncIterator[Fleet]:
    async with fleet() as running:
        yield running


async def used_again(orchestrator: Orchestrator, service: Service, policy: object = BLOCKS) -> None:
    """Completes until the service gets a stream; fails by its deadline."""
    before = service.streams
    async with asyncio.timeout(20):
        while service.streams == before:
            await orchestrator.complete(policy=policy)


async def test_a_killed_target_gets_nothing_more_and_new_requests_see_no_error(made: Fleet) -> None:
    targets = [await made.target() for _ in range(2)]
    orchestrator = await made.orchestrator(targets)
    await orchestrator.until(*targets)
    await used_again(orchestrator, targets[0])
    for round_number in range(3):
        await targets[0].kill()
        killed_at = targets[0].streams
        answers = await asyncio.gather(*(orchestrator.complete() for _ in range(12)))
        assert [len(answer.token_ids) for answer in answers] == [8] * 12, round_number
        assert targets[0].streams == killed_at
        assert (await orchestrator.states())[targets[0].address] == "failed"
        await targets[0].come_back()
        await used_again(orchestrator, targets[0])
        await orchestrator.until(*targets)


async def test_one_that_has_failed_is_left_alone_at_once(made: Fleet) -> None:
    """Not only once it is asked again: of many that come one after the other, one at most is sent there."""
    targets = [await made.target() for _ in range(2)]
    orchestrator = await made.orchestrator(targets)
    for _ in range(3):
        await used_again(orchestrator, targets[0])
        before = targets[0].streams
        targets[0].refuses = TandemError.shutting_down()
        await targets[0].server.set_serving("tandem.v1.TargetService", False)
        for _ in range(16):
            assert len((await orchestrator.complete(max_tokens=2)).token_ids) == 2
        assert targets[0].streams - before <= 1
        targets[0].refuses = None
        await targets[0].server.set_serving("tandem.v1.TargetService", True)


async def test_callers_in_a_loop_lose_nothing(made: Fleet) -> None:
    targets = [await made.target() for _ in range(3)]
    orchestrator = await made.orchestrator(targets)
    await orchestrator.until(*targets)
    killed, done = 0, 0

    async def caller() -> None:
        nonlocal done
        while killed < 4:
            tokens: list[int] = []
            request = make_request([1, 2], max_tokens=30, speculation={"off": True})
            async for response in orchestrator.stub.Complete(request, timeout=60):
                tokens += response.token_ids
            assert tokens == list(expected.token_ids)
            done += 1

    expected = await orchestrator.complete(max_tokens=30)
    callers = [asyncio.create_task(caller()) for _ in range(4)]
    try:
        while killed < 4:
            target = targets[killed % 3]
            until = done + 12
            async with asyncio.timeout(20):
                while done < until:
                    for each in callers:
                        if each.done():
                            each.result()
                    await asyncio.sleep(0.005)
            await target.kill()
            killed += 1
            await asyncio.sleep(0.05)
            await target.come_back()
    finally:
        await asyncio.gather(*callers)
    assert done >= 48


async def test_a_killed_draft_costs_new_requests_nothing(made: Fleet) -> None:
    target, drafts = await made.target(), [await made.draft() for _ in range(2)]
    orchestrator = await made.orchestrator([target], drafts)
    await orchestrator.until(target, *drafts)
    alone = await orchestrator.complete(max_tokens=30)
    await used_again(orchestrator, drafts[0])
    await drafts[0].kill()
    killed_at = drafts[0].streams
    for _ in range(6):
        found = await orchestrator.complete(max_tokens=30, policy=BLOCKS)
        assert found.token_ids == alone.token_ids
        assert found.finish.speculation.draft_failures == 0 and found.finish.speculation.accepted_tokens > 5
    assert drafts[0].streams == killed_at
    await drafts[0].come_back()
    await used_again(orchestrator, drafts[0])


async def test_a_draft_lost_in_the_middle_is_done_without_and_gets_no_more(made: Fleet) -> None:
    target, drafts = await made.target(), [await made.draft() for _ in range(2)]
    orchestrator = await made.orchestrator([target], drafts)
    await orchestrator.until(target, *drafts)
    alone = await orchestrator.complete(max_tokens=400)
    call = orchestrator.stub.Complete(make_request([1, 2], speculation=BLOCKS, max_tokens=400))
    tokens = list((await call.read()).token_ids)
    while len(tokens) < 20:
        tokens += (await call.read()).token_ids
    at = next(draft for draft in drafts if draft.engine.load().sequences)
    await at.kill()
    rest = await rest_of(call)
    tokens += [token for response in rest for token in response.token_ids]
    assert tokens == list(alone.token_ids) and rest[-1].finish.speculation.draft_failures == 1
    killed_at = at.streams
    for _ in range(4):
        found = await orchestrator.complete(max_tokens=30, policy=BLOCKS)
        assert found.finish.speculation.draft_failures == 0
    assert at.streams == killed_at


async def test_a_drained_target_lets_its_streams_end_and_gets_no_more(made: Fleet) -> None:
    targets = [await made.target() for _ in range(2)]
    orchestrator = await made.orchestrator(targets)
    await orchestrator.until(*targets)
    call = await orchestrator.begin(max_tokens=300)
    leaving = next(target for target in targets if target.engine.load().sequences)
    leaving.server.grace_seconds = 30
    draining = asyncio.create_task(leaving.drain())
    await asyncio.gather(*(orchestrator.complete() for _ in range(8)))
    assert leaving.streams == 1
    assert 1 + sum(len(response.token_ids) for response in await rest_of(call)) == 300
    await draining


async def test_without_a_target_the_caller_is_told_when_to_come_back(made: Fleet) -> None:
    targets = [await made.target() for _ in range(2)]
    orchestrator = await made.orchestrator(targets, connect_timeout_seconds=0.5)
    await orchestrator.until(*targets)
    for target in targets:
        await target.kill()
    errors = await asyncio.gather(*(orchestrator.refusal() for _ in range(5)))
    assert {(error.reason, error.code) for error in errors} == {
        ("TARGET_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
    }
    assert all(error.retry_after for error in errors)
    assert all(target.address in error.message for target in targets for error in errors)
    # And the orchestrator is none the worse for it.
    await targets[1].come_back()
    await used_again(orchestrator, targets[1])


async def test_a_request_waits_for_a_target_that_comes_within_the_timeout(made: Fleet) -> None:
    target = await made.target()
    await target.kill()
    orchestrator = await made.orchestrator([target], connect_timeout_seconds=20.0)
    await orchestrator.until(target, state="failed")
    waiting = [asyncio.create_task(orchestrator.complete()) for _ in range(3)]
    await asyncio.sleep(0.2)
    assert not any(task.done() for task in waiting)
    await target.come_back()
    assert [len((await task).token_ids) for task in waiting] == [8] * 3


async def test_a_service_that_says_it_is_not_serving_is_not_used(made: Fleet) -> None:
    """It still answers: a process whose model is gone."""
    targets = [await made.target() for _ in range(2)]
    orchestrator = await made.orchestrator(targets)
    await orchestrator.until(*targets)
    await targets[0].server.set_serving("tandem.v1.TargetService", False)
    await orchestrator.until(targets[0], state="failed")
    before = targets[0].streams
    await asyncio.gather(*(orchestrator.complete() for _ in range(8)))
    assert targets[0].streams == before
    await targets[0].server.set_serving("tandem.v1.TargetService", True)
    await used_again(orchestrator, targets[0])
