"""Several targets and drafts behind one orchestrator: work is spread, and what does not take it is passed over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tandem.inference.engine import EngineLimits
from tandem.rpc.errors import TandemError
from tandem.rpc.server import Server
from tandem.v1 import completion_pb2, target_pb2, target_pb2_grpc
from tests.support.fleet import Fleet, fleet
from tests.support.trio import OFF, make_request, policy

FULL = EngineLimits(max_sequences=1)
BLOCKS = policy("fixed", "exact", max_tokens=3)


@pytest.fixture
async def made() -> AsyncIterator[Fleet]:
    async with fleet() as running:
        yield running


async def test_many_at_once_are_spread(made: Fleet) -> None:
    """60 at once over three targets: each gets 12 or more. By the rule alone none got fewer than 17 in 20,000
    simulations, and none in a dozen runs of this."""
    targets = [await made.target() for _ in range(3)]
    drafts = [await made.draft() for _ in range(2)]
    orchestrator = await made.orchestrator(targets, drafts)
    await orchestrator.until(*targets, *drafts)
    answers = await asyncio.gather(*(orchestrator.complete([number, 2], policy=BLOCKS) for number in range(60)))
    assert [len(answer.token_ids) for answer in answers] == [8] * 60
    assert all(answer.finish.speculation.draft_failures == 0 for answer in answers)
    assert sum(target.streams for target in targets) == sum(draft.streams for draft in drafts) == 60
    assert min(target.streams for target in targets) >= 12, [target.streams for target in targets]
    assert min(draft.streams for draft in drafts) >= 20, [draft.streams for draft in drafts]


async def test_what_others_have_begun_counts(made: Fleet) -> None:
    """Of two, the one that other orchestrators keep busy gets nothing until the other is as busy."""
    busy, idle = await made.target(), await made.target()
    other = await made.orchestrator([busy])
    held = [await other.begin() for _ in range(6)]
    orchestrator = await made.orchestrator([busy, idle])
    await orchestrator.until(busy, idle)
    begun = [await orchestrator.begin() for _ in range(5)]
    assert (busy.streams, idle.streams) == (6, 5)
    load = await orchestrator.load()
    assert load.completions == 5 and load.target.sessions == 11
    assert {each.address: each.load.sessions for each in load.targets} == {busy.address: 6, idle.address: 5}
    assert {each.address: each.completions for each in load.targets} == {busy.address: 0, idle.address: 5}
    for call in (*held, *begun):
        call.cancel()


async def test_a_burst_between_two_reports_does_not_all_go_to_one(made: Fleet) -> None:
    """Four sequences under way and their four steps make eight that the other one gets first; the rest is halved."""
    busy, idle = await made.target(), await made.target()
    other = await made.orchestrator([busy])
    held = [await other.begin() for _ in range(4)]
    orchestrator = await made.orchestrator([busy, idle])
    await orchestrator.until(busy, idle)
    begun = await asyncio.gather(*(orchestrator.begin() for _ in range(24)))
    assert busy.streams - 4 + idle.streams == 24
    assert busy.streams - 4 >= 5, (busy.streams, idle.streams)
    for call in (*held, *begun):
        call.cancel()


async def test_the_choices_of_a_request_share_a_target(made: Fleet) -> None:
    """Their prompt is taken in once."""
    targets = [await made.target() for _ in range(2)]
    orchestrator = await made.orchestrator(targets)
    await orchestrator.until(*targets)
    for _ in range(4):
        answer = await orchestrator.complete(n=5, sampling={"temperature": 1.0})
        assert len(answer.more_choices) == 4
    assert all(target.streams % 5 == 0 for target in targets) and sum(target.streams for target in targets) == 20


async def test_a_full_target_sends_callers_on(made: Fleet) -> None:
    full, busy = await made.target(limits=FULL), await made.target()
    await full.engine.open()
    other = await made.orchestrator([busy])
    held = [await other.begin() for _ in range(4)]
    orchestrator = await made.orchestrator([full, busy])
    await orchestrator.until(full, busy)
    for _ in range(5):
        assert len((await orchestrator.complete()).token_ids) == 8
    assert full.streams > 0  # less busy, as reported; and it refused
    for call in held:
        call.cancel()


async def test_where_all_are_full_the_caller_is_told_when_to_come_back(made: Fleet) -> None:
    targets = [await made.target(limits=FULL) for _ in range(2)]
    held = [await target.engine.open() for target in targets]
    orchestrator = await made.orchestrator(targets)
    await orchestrator.until(*targets)
    error = await orchestrator.refusal()
    assert (error.reason, error.code.name) == ("OVERLOADED", "RESOURCE_EXHAUSTED")
    assert error.retry_after is not None and error.retry_after > 0
    assert [target.streams for target in targets] == [1, 1]
    assert set((await orchestrator.states()).values()) == {"ready"}
    await targets[1].engine.release(held[1])
    assert len((await orchestrator.complete()).token_ids) == 8


async def test_a_full_draft_sends_callers_on(made: Fleet) -> None:
    target, full, busy = await made.target(), await made.draft(limits=FULL), await made.draft()
    await full.engine.open()
    other = await made.orchestrator([target], [busy])
    held = [await other.begin(speculation=BLOCKS) for _ in range(4)]
    orchestrator = await made.orchestrator([target], [full, busy])
    await orchestrator.until(target, full, busy)
    alone = await orchestrator.complete(max_tokens=40)
    for _ in range(4):
        found = await orchestrator.complete(max_tokens=40, policy=BLOCKS)
        assert found.token_ids == alone.token_ids
        assert found.finish.speculation.draft_failures == 0 and found.finish.speculation.accepted_tokens > 5
    assert full.streams > 0
    for call in held:
        call.cancel()


async def test_one_that_dies_before_the_first_token_costs_nothing(made: Fleet) -> None:
    targets, draft = [await made.target() for _ in range(2)], await made.draft()
    orchestrator = await made.orchestrator(targets, [draft])
    await orchestrator.until(*targets, draft)
    expected = await orchestrator.complete(max_tokens=30)
    targets[0].dies_after_opening = True
    for chosen in (OFF, BLOCKS):
        before = targets[0].streams
        async with asyncio.timeout(20):
            while targets[0].streams == before:
                found = await orchestrator.complete(max_tokens=30, policy=chosen)
                assert found.token_ids == expected.token_ids
                assert found.finish.speculation.draft_failures == 0
    async with asyncio.timeout(20):
        while draft.engine.load().sequences or any(target.engine.load().sequences for target in targets):
            await asyncio.sleep(0.01)


async def test_what_breaks_a_target_is_tried_at_one_other(made: Fleet) -> None:
    targets = [await made.target() for _ in range(3)]
    orchestrator = await made.orchestrator(targets)
    await orchestrator.until(*targets)
    for target in targets:
        target.refuses = TandemError.not_finite()
    assert (await orchestrator.refusal()).reason == "NOT_FINITE"
    assert sum(target.streams for target in targets) == 2
    for target in targets:
        target.refuses = TandemError.shutting_down()
    error = await orchestrator.refusal()
    assert error.reason == "TARGET_UNAVAILABLE" and error.retry_after is not None


async def test_a_place_is_given_back_however_a_completion_ends(made: Fleet) -> None:
    targets, drafts = [await made.target() for _ in range(2)], [await made.draft() for _ in range(2)]
    orchestrator = await made.orchestrator(targets, drafts)
    await orchestrator.until(*targets, *drafts)
    await orchestrator.complete(policy=BLOCKS)
    await orchestrator.complete(policy=BLOCKS, n=3, sampling={"temperature": 1.0})
    assert (await orchestrator.refusal(policy=BLOCKS, sampling={"temperature": -1.0})).reason == "INVALID_FIELD"
    left = await orchestrator.begin(speculation=BLOCKS, n=2, sampling={"temperature": 1.0})
    left.cancel()
    unread = orchestrator.stub.Complete(make_request([1], speculation=BLOCKS, max_tokens=400))
    unread.cancel()
    async with asyncio.timeout(20):
        while True:
            load = await orchestrator.load()
            if not load.completions and not any(each.completions for each in (*load.targets, *load.drafts)):
                break
            await asyncio.sleep(0.01)


async def test_a_stream_that_ends_without_a_word_is_a_failure(made: Fleet) -> None:
    """A peer that speaks gRPC and holds nothing of the contract."""

    class Silent(target_pb2_grpc.TargetServiceServicer):
        async def GetTargetModel(self, request, context):  # noqa: N802
            return target_pb2.GetTargetModelResponse(model=info)

        async def GetTargetLoad(self, request, context):  # noqa: N802
            return target_pb2.GetTargetLoadResponse()

        async def Verify(self, request_iterator, context):  # noqa: N802
            return
            yield

    target = await made.target()
    whole = await made.orchestrator([target])
    info = (await whole.stub.GetModels(completion_pb2.GetModelsRequest())).target
    server = Server()
    server.add(target_pb2_grpc.add_TargetServiceServicer_to_server, Silent(), "tandem.v1.TargetService")
    await made.stack.enter_async_context(server)
    orchestrator = await made.orchestrator([target, server.address])
    await orchestrator.until(target)
    for _ in range(6):
        assert len((await orchestrator.complete()).token_ids) == 8
    orchestrator = await made.orchestrator([server.address], connect_timeout_seconds=0.5)
    error = await orchestrator.refusal()
    assert error.reason == "TARGET_UNAVAILABLE" and error.retry_after is not None
