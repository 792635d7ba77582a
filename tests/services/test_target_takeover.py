"""A target may be lost at any point of a completion: another one goes on, and the text is what it would have been."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from tandem.rpc.errors import TandemError
from tandem.v1 import completion_pb2
from tandem.v1.model_pb2 import ModelInfo
from tests.support.fleet import CONTEXT, Death, Fleet, Orchestrator, Service, fleet, rest_of, until_idle
from tests.support.tiny import tiny_llama
from tests.support.trio import OFF, make_request, policy

TAKEOVERS = "tandem_target_takeovers_total"
LENGTH = 60
RULES = {
    "off": (OFF, 0.0),
    "off, sampled": (OFF, 1.0),
    "exact": (policy("fixed", "exact", max_tokens=3), 0.0),
    "coupled": (policy("fixed", "coupled", max_tokens=3), 1.0),
    "ratio": (policy("fixed", "ratio", max_tokens=3), 0.9),
    "block": (policy("fixed", "block", max_tokens=3), 0.9),
    "jsd": (policy("fixed", "jsd", max_tokens=3, threshold=0.4), 0.0),
    "adasd": (policy("fixed", "adasd", max_tokens=3), 0.0),
    "adasd twice": (policy("adasd", "adasd"), 0.0),
}


@pytest.fixture
async def made() -> AsyncIterator[Fleet]:
    async with fleet() as running:
        yield running


async def _complete(
    orchestrator: Orchestrator, rule: str, **fields: object
) -> completion_pb2.CompleteOnceResponse:
    speculation, temperature = RULES[rule]
    return await orchestrator.complete(
        policy=speculation, max_tokens=LENGTH, sampling={"temperature": temperature, "seed": 7}, audit=True, **fields
    )


def _told(found: completion_pb2.CompleteOnceResponse) -> list[object]:
    """What must not depend on a fault. Numbers are those of another forward pass: rounded."""
    report = found.finish.speculation
    return [
        list(found.token_ids),
        [(token.source, token.round, round(token.target_entropy, 3)) for token in found.tokens],
        (report.drafted_tokens, report.accepted_tokens, report.verify_steps, list(report.accepted_at)),
        (report.lossy_tokens, report.draft_failures, report.plain_tokens, found.finish.usage.prompt_tokens),
        {name: pytest.approx(value, abs=1e-3) for name, value in report.thresholds.items()},
    ]


@pytest.mark.parametrize(
    ("rule", "kind", "nth"),
    [
        ("exact", "opened", 1), ("exact", "verified", 1), ("exact", "verified", 6),
        ("coupled", "verified", 1), ("coupled", "verified", 6),
        ("ratio", "verified", 6), ("block", "verified", 6),
        ("jsd", "verified", 6), ("jsd", "resolved", 1),
        ("adasd", "verified", 6), ("adasd", "resolved", 1), ("adasd twice", "verified", 6),
        ("off", "generated", 1), ("off", "generated", 9), ("off, sampled", "generated", 9),
    ],
)  # fmt: skip
async def test_a_target_killed_at_any_point_changes_nothing_but_the_time(
    made: Fleet, rule: str, kind: str, nth: int
) -> None:
    # These need full rows: draft and target differ enough, and little of a row is sent.
    targets = [await made.target(tiny_llama(0, context=CONTEXT)) for _ in range(2)]
    draft = await made.draft(tiny_llama(0, noise=0.12, context=CONTEXT))
    orchestrator = await made.orchestrator(targets, [draft], bracket_entries=8)
    await orchestrator.until(*targets, draft)
    expected = await _complete(orchestrator, rule, prompt=[5, 6, 7])
    assert kind != "resolved" or expected.finish.speculation.full_rows
    death = Death(kind, nth)
    for target in targets:
        target.death = death
    found = await _complete(orchestrator, rule, prompt=[5, 6, 7])
    assert death.victim is not None
    assert _told(found) == _told(expected)
    has_begun = kind == "resolved" or nth > 1
    assert orchestrator.metric(TAKEOVERS) == has_begun
    parts = found.finish.speculation.time.rounds
    together = sum(getattr(parts, part.name) for part in parts.DESCRIPTOR.fields)
    assert together == pytest.approx(found.finish.speculation.time.rounds_microseconds, rel=0.01, abs=1000)
    await until_idle(*targets, draft)


@pytest.mark.parametrize("rule", ["off", "coupled"])
async def test_the_same_target_goes_on_when_it_is_back(made: Fleet, rule: str) -> None:
    target, draft = await made.target(), await made.draft()
    orchestrator = await made.orchestrator([target], [draft])
    await orchestrator.until(target, draft)
    expected = await _complete(orchestrator, rule)
    target.death = Death("generated" if rule == "off" else "verified", 6)
    waiting = asyncio.create_task(_complete(orchestrator, rule))
    await orchestrator.until(target, state="failed")
    assert not waiting.done()
    await target.come_back()
    assert _told(await waiting) == _told(expected)
    await until_idle(target, draft)


async def test_every_choice_of_a_request_goes_on(made: Fleet) -> None:
    targets, draft = [await made.target() for _ in range(2)], await made.draft()
    orchestrator = await made.orchestrator(targets, [draft])
    await orchestrator.until(*targets, draft)
    expected = await _complete(orchestrator, "coupled", n=3)
    death = Death("verified", 14)
    for target in targets:
        target.death = death
    found = await _complete(orchestrator, "coupled", n=3)
    assert death.victim is not None and len({tuple(each.token_ids) for each in expected.more_choices}) == 2
    for one, other in zip([found, *found.more_choices], [expected, *expected.more_choices], strict=True):
        assert list(one.token_ids) == list(other.token_ids)
    assert orchestrator.metric(TAKEOVERS) == 3
    await until_idle(*targets, draft)


async def test_targets_lost_one_after_the_other_lose_no_token(made: Fleet) -> None:
    targets = [await made.target() for _ in range(2)]
    orchestrator = await made.orchestrator(targets)
    await orchestrator.until(*targets)
    expected = await orchestrator.complete(max_tokens=400)
    call = orchestrator.stub.Complete(make_request([1, 2], max_tokens=400, speculation=OFF))
    tokens: list[int] = []
    for times in range(1, 4):
        while len(tokens) < 100 * times:
            tokens += (await call.read()).token_ids
        at = await _where_it_runs(targets)
        await at.kill()
        async with asyncio.timeout(20):
            while orchestrator.metric(TAKEOVERS) < times:
                tokens += (await call.read()).token_ids
        await at.come_back()
    tokens += [token for response in await rest_of(call) for token in response.token_ids]
    assert tokens == list(expected.token_ids)
    await until_idle(*targets)


async def _where_it_runs(targets: list[Service]) -> Service:
    async with asyncio.timeout(20):
        while True:
            for target in targets:
                if target.engine.load().sequences:
                    return target
            await asyncio.sleep(0.005)


async def test_without_another_target_the_caller_is_told_when_to_come_back(made: Fleet) -> None:
    target = await made.target()
    orchestrator = await made.orchestrator([target], target_patience_seconds=0.5)
    await orchestrator.until(target)
    call = await orchestrator.begin(speculation=OFF)
    await target.kill()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rest_of(call)
    error = TandemError.from_rpc_error(caught.value)
    assert (error.reason, error.code) == ("TARGET_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
    assert error.retry_after and target.address in error.message
    await target.come_back()
    assert len((await orchestrator.complete()).token_ids) == 8
    await until_idle(target)


async def test_a_text_is_not_gone_on_with_by_another_model(made: Fleet) -> None:
    old, new = await made.target(revision="1"), await made.target(revision="2")
    orchestrator = await made.orchestrator([old, new], target_patience_seconds=0.5)
    async with asyncio.timeout(20):
        while len({*(await orchestrator.states()).values()} & {"ready", "mismatched"}) < 2:
            await asyncio.sleep(0.01)
    call = await orchestrator.begin(speculation=OFF)
    at = await _where_it_runs([old, new])
    other = new if at is old else old
    await at.kill()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rest_of(call)
    assert TandemError.from_rpc_error(caught.value).reason == "TARGET_UNAVAILABLE"
    assert other.streams == 0


async def test_a_text_is_gone_on_with_by_its_model_though_another_is_served_by_now(
    made: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [await made.target(revision="1") for _ in range(2)]
    orchestrator = await made.orchestrator(old)
    await orchestrator.until(*old)
    expected = await orchestrator.complete(max_tokens=300)
    call = orchestrator.stub.Complete(make_request([1, 2], max_tokens=300, speculation=OFF))
    tokens = list((await call.read()).token_ids)
    at = await _where_it_runs(old)
    other = old[1] if at is old[0] else old[0]
    served = orchestrator.upstream._served
    assert served.model is not None
    newer = ModelInfo()
    newer.CopyFrom(served.model)
    newer.revision = "2"
    monkeypatch.setattr(served, "_elect", lambda models: None)
    served.model = newer  # as if most of the targets were of another revision by now
    orchestrator.upstream._targets.review()
    await at.kill()
    tokens += [token for response in await rest_of(call) for token in response.token_ids]
    assert tokens == list(expected.token_ids) and other.streams


async def test_a_target_that_stands_still_is_left_though_its_connections_stay(made: Fleet) -> None:
    """As a process does after SIGSTOP, or one whose packets are lost."""
    targets = [await made.target() for _ in range(2)]
    orchestrator = await made.orchestrator(targets, connect_timeout_seconds=1.0, stall_seconds=1.0)
    await orchestrator.until(*targets)
    expected = await orchestrator.complete(max_tokens=200)
    call = orchestrator.stub.Complete(make_request([1, 2], max_tokens=200, speculation=OFF))
    tokens = list((await call.read()).token_ids)
    at = await _where_it_runs(targets)
    at.is_stopped = True
    tokens += [token for response in await rest_of(call) for token in response.token_ids]
    assert tokens == list(expected.token_ids) and orchestrator.metric(TAKEOVERS) == 1
    at.is_stopped = False
    await until_idle(*targets)


async def test_a_target_whose_streams_hang_is_left_though_it_answers_questions(made: Fleet) -> None:
    targets = [await made.target() for _ in range(2)]
    orchestrator = await made.orchestrator(targets, target_timeout_seconds=0.5)
    await orchestrator.until(*targets)
    expected = await orchestrator.complete(max_tokens=200)
    call = orchestrator.stub.Complete(make_request([1, 2], max_tokens=200, speculation=OFF))
    tokens = list((await call.read()).token_ids)
    at = await _where_it_runs(targets)
    at.hangs = True
    tokens += [token for response in await rest_of(call) for token in response.token_ids]
    assert tokens == list(expected.token_ids) and orchestrator.metric(TAKEOVERS) == 1
    at.hangs = False
    await until_idle(*targets)


async def test_a_target_that_breaks_is_left_and_each_is_asked_once(made: Fleet) -> None:
    targets = [await made.target() for _ in range(2)]
    orchestrator = await made.orchestrator(targets)
    await orchestrator.until(*targets)
    expected = await orchestrator.complete(max_tokens=30)
    targets[0].ends = 0
    for _ in range(8):
        found = await orchestrator.complete(max_tokens=30)
        assert found.token_ids == expected.token_ids
    targets[1].ends = 0
    assert (await orchestrator.refusal(max_tokens=30)).reason in ("INTERNAL", "TARGET_UNAVAILABLE")
    await until_idle(*targets)
