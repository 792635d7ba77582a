"""Replicas that do not belong together are never paired, and a fleet goes over from one model to another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from orchestrator.replicas import TARGET
from orchestrator.replicas.fit import OneModel, can_take_over, identity, same_model
from tandem.rpc.errors import TandemError
from tandem.v1 import completion_pb2
from tandem.v1.model_pb2 import ModelInfo
from tests.support.fleet import CONTEXT, Fleet, Orchestrator, fleet
from tests.support.tiny import tiny_llama
from tests.support.trio import policy

BLOCKS = policy("fixed", "exact", max_tokens=3)


@pytest.fixture
async def made() -> AsyncIterator[Fleet]:
    async with fleet() as running:
        yield running


async def revision(orchestrator: Orchestrator) -> str:
    return (await orchestrator.stub.GetModels(completion_pb2.GetModelsRequest())).target.revision


async def test_a_target_with_another_tokenizer_is_never_used(made: Fleet) -> None:
    good, other = await made.target(), await made.target(fingerprint="another")
    orchestrator = await made.orchestrator([other, good])
    await orchestrator.until(good)
    await orchestrator.until(other, state="mismatched")
    await asyncio.gather(*(orchestrator.complete() for _ in range(12)))
    assert (good.streams, other.streams) == (12, 0)
    problem = {each.address: each.problem for each in (await orchestrator.load()).targets}
    assert not problem[good.address] and "tokenizer" in problem[other.address]
    # Nor where it is the only one that is left: that one is told, not used.
    await good.kill()
    errors = [await orchestrator.refusal() for _ in range(2)]
    assert {error.reason for error in errors} <= {"TARGET_UNAVAILABLE", "TOKENIZER_MISMATCH"}
    assert other.streams == 0


async def test_a_draft_that_does_not_fit_is_never_used(made: Fleet) -> None:
    target, good = await made.target(), await made.draft()
    others = [await made.draft(fingerprint="another"), await made.draft(tiny_llama(1, vocabulary=60))]
    orchestrator = await made.orchestrator([target], [*others, good])
    await orchestrator.until(target, good)
    await orchestrator.until(*others, state="mismatched")
    for _ in range(8):
        found = await orchestrator.complete(max_tokens=20, policy=BLOCKS)
        assert found.finish.speculation.draft_failures == 0 and found.finish.speculation.drafted_tokens > 0
    assert good.streams == 8 and not any(other.streams for other in others)
    # Without it, the target alone; a draft that is gone may come back, so nobody is refused.
    await good.kill()
    await orchestrator.until(good, state="failed")
    found = await orchestrator.complete(max_tokens=20, policy=BLOCKS)
    assert found.finish.speculation.accept_rule == "off" and found.finish.speculation.draft_failures == 1
    assert not any(other.streams for other in others)


async def test_a_target_of_another_protocol_is_found_out_at_the_first_stream(made: Fleet) -> None:
    good, newer = await made.target(), await made.target()
    newer.refuses = TandemError.protocol_mismatch(1, 2)
    orchestrator = await made.orchestrator([good, newer])
    await orchestrator.until(good, newer)
    async with asyncio.timeout(20):
        while not newer.streams:
            assert len((await orchestrator.complete()).token_ids) == 8
    assert (await orchestrator.states())[newer.address] == "mismatched"
    await asyncio.gather(*(orchestrator.complete() for _ in range(8)))
    assert newer.streams == 1
    alone = await made.orchestrator([newer])
    assert (await alone.refusal()).reason == "PROTOCOL_MISMATCH"
    # It is replaced by one that speaks ours.
    await newer.kill()
    await orchestrator.until(newer, state="failed")
    newer.refuses = None
    await newer.come_back()
    await orchestrator.until(newer)


async def test_what_is_no_target_is_not_used(made: Fleet) -> None:
    target, draft = await made.target(), await made.draft()
    orchestrator = await made.orchestrator([target, draft])
    await orchestrator.until(target)
    await orchestrator.until(draft, state="mismatched")
    await asyncio.gather(*(orchestrator.complete() for _ in range(6)))
    assert draft.streams == 0


async def test_of_two_models_the_one_that_most_targets_serve_is_served(made: Fleet) -> None:
    one = await made.target(revision="a")
    others = [await made.target(tiny_llama(2, context=CONTEXT), revision="b") for _ in range(2)]
    orchestrator = await made.orchestrator([one, *others])
    await orchestrator.until(*others)
    await orchestrator.until(one, state="mismatched")
    await asyncio.gather(*(orchestrator.complete() for _ in range(9)))
    assert one.streams == 0 and await revision(orchestrator) == "b"
    # The others gone, it is served rather than nothing.
    for other in others:
        await other.kill()
    assert len((await orchestrator.complete()).token_ids) == 8
    assert one.streams == 1 and await revision(orchestrator) == "a"


async def test_a_rolling_upgrade_loses_no_request_and_goes_over_once(made: Fleet) -> None:
    models = {"a": tiny_llama(1, context=CONTEXT), "b": tiny_llama(2, context=CONTEXT)}
    drafts = [await made.draft()]
    fleet_now = [await made.target(models["a"], revision="a") for _ in range(3)]
    orchestrator = await made.orchestrator(fleet_now, drafts)
    await orchestrator.until(*fleet_now, *drafts)
    expected = {}
    for name, model in models.items():
        alone = await made.orchestrator([await made.target(model, revision=name)])
        expected[name] = list((await alone.complete(max_tokens=24)).token_ids)
    assert expected["a"] != expected["b"]
    served: list[str] = []  # in the order in which requests began
    upgraded = False

    async def caller(policy_number: int) -> None:
        while not upgraded:
            place = len(served)
            served.append("")
            answer = await orchestrator.complete(max_tokens=24, policy=BLOCKS if policy_number % 2 else {"off": True})
            (served[place],) = (name for name, text in expected.items() if text == list(answer.token_ids))

    async def enough() -> None:
        until = len(served) + 10
        async with asyncio.timeout(20):
            while len(served) < until:
                for each in callers:
                    if each.done():
                        each.result()
                await asyncio.sleep(0.005)

    callers = [asyncio.create_task(caller(number)) for number in range(2)]
    try:
        for index, old in enumerate(fleet_now):
            await enough()
            await old.drain()
            fleet_now[index] = new = await made.target(models["b"], revision="b", port=old.server.port)
            await orchestrator.until(new, state="ready" if index else "mismatched")
        await enough()
    finally:
        upgraded = True
        await asyncio.gather(*callers)
    assert await revision(orchestrator) == "b"
    assert served[0] == "a" and served[-1] == "b"
    # Two callers: requests that began side by side at the change may be of either model, no others.
    change = served.index("b")
    assert "a" not in served[change + 2 :], served
    assert set((await orchestrator.states()).values()) == {"ready"}


async def test_one_that_was_replaced_unnoticed_is_found_out_before_its_first_token(made: Fleet) -> None:
    """The only target, replaced between two looks at it: the request is completed by the new model, as a whole."""
    old, new = tiny_llama(1, context=CONTEXT), tiny_llama(2, context=CONTEXT)
    target = await made.target(old, revision="a")
    orchestrator = await made.orchestrator([target])
    await orchestrator.until(target)
    before = await orchestrator.complete(max_tokens=20)
    await target.kill()
    replaced = await made.target(new, revision="b", port=target.server.port)
    (replica,) = orchestrator.upstream._targets.replicas
    # As if nobody had seen it go, whether somebody has or not.
    await orchestrator.until(replaced)
    model = ModelInfo()
    model.CopyFrom(replica.model)
    model.revision = "a"
    replica.model, replica._model_from = model, time.monotonic()
    replica._changed()
    assert orchestrator.upstream._served.model is not None and orchestrator.upstream._served.model.revision == "a"
    after = await orchestrator.complete(max_tokens=20)
    assert replaced.streams == 2  # the first was left when it said what it serves
    assert await revision(orchestrator) == "b" and after.token_ids != before.token_ids


class Named:
    """As much of a replica as has a vote."""

    service = TARGET

    def __init__(self, number: int) -> None:
        self.number = number
        self.endpoint = f"127.0.0.1:{number}"


def test_the_election() -> None:
    """A strict majority takes over; a tie changes nothing; while nobody answers the last one stays."""

    def served(fit: OneModel, *revisions: str) -> str:
        answering = {
            Named(number): ModelInfo(model_id="m", revision=name, vocabulary_size=9)
            for number, name in enumerate(revisions)
        }
        misfits = fit.misfits(answering)  # type: ignore[arg-type]
        assert fit.model is not None
        others = {number for number, name in enumerate(revisions) if name != fit.model.revision}
        assert {replica.number for replica in misfits} == others  # type: ignore[attr-defined]
        return fit.model.revision

    fit = OneModel()
    steps = ["a", "aab", "ab", "abb", "ab", "a", "ab", "b", "bb"]
    assert [served(fit, *step) for step in steps] == ["a", "a", "a", "b", "b", "a", "a", "b", "b"]
    fit.misfits({})
    assert fit.model is not None and fit.model.revision == "b"
    assert served(fit, *"cba") == "b"


def test_what_tells_models_apart() -> None:
    one = ModelInfo(model_id="m", revision="a", vocabulary_size=9, context_length=64, dtype="float32", weights="full")
    same = ModelInfo(model_id="m", revision="a", vocabulary_size=9, context_length=64, dtype="float32")
    assert same_model(one, same)  # from a service that does not say what is full
    for name, value in {
        "model_id": "n", "revision": "b", "dtype": "bfloat16", "weights": "int8", "context_length": 32,
        "tokenizer_fingerprint": "x", "vocabulary_size": 8,
    }.items():  # fmt: skip
        other = ModelInfo()
        other.CopyFrom(one)
        setattr(other, name, value)
        assert identity(other) != identity(one), name
        assert can_take_over(one, other) == (name in ("model_id", "revision", "dtype", "weights")), name


