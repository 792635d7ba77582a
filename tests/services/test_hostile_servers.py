"""Drafts and targets that answer garbage harm only the streams that it came on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from tandem.rpc.channels import connect
from tandem.rpc.errors import TandemError
from tandem.rpc.server import Server
from tandem.v1 import completion_pb2, draft_pb2, draft_pb2_grpc, model_pb2
from tests.fuzz.scenes import CERTAIN, Fleet, Scene, complete, fleet, known_texts
from tests.fuzz.servers import Hostility, any_status
from tests.support.foreseeing import Foresight, known
from tests.support.trio import OFF, make_request

Does = Callable[[Any, grpc.aio.ServicerContext], AsyncGenerator[Any]]


@dataclass
class Scripted(Hostility):
    """Does one thing to each answer, so many times. is_unreadable: whether what it says of its model and load is."""

    does: Does | None = None
    times: int = 10**9
    is_unreadable: bool = False

    def fact(self, true: Any) -> Any:
        self.done["fact"] += self.is_unreadable
        return b"\xff\xff" if self.is_unreadable else true

    async def answers(
        self, kind: type, true: AsyncGenerator[Any], asked: list[Any], context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[Any]:
        assert self.does is not None
        async with aclosing(true):
            async for answer in true:
                if answer.HasField("opened") or self.times <= 0:
                    yield answer
                    continue
                self.times -= 1
                async for other in self.does(answer, context):
                    yield other


def scripted(does: Does, times: int = 10**9) -> Scripted:
    return Scripted(random.Random(1), share=0.0, does=does, times=times)


async def _no_number(answer: Any, context: Any) -> AsyncGenerator[Any]:
    if answer.HasField("verified"):
        answer.verified.entropies[0] = float("nan")
    elif answer.HasField("generated"):
        answer.generated.entropy = float("nan")
    yield answer


async def _no_message(answer: Any, context: Any) -> AsyncGenerator[Any]:
    yield b"\xff\xff\xff"


async def _twice_opened(answer: Any, context: Any) -> AsyncGenerator[Any]:
    other = type(answer)()
    other.opened.SetInParent()
    yield other


async def _for_ever(answer: Any, context: Any) -> AsyncGenerator[Any]:
    while True:
        yield answer


async def _internal(answer: Any, context: Any) -> AsyncGenerator[Any]:
    await context.abort(grpc.StatusCode.INTERNAL, "a defect of the target")
    yield answer


async def _unauthenticated(answer: Any, context: Any) -> AsyncGenerator[Any]:
    await context.abort_with_status(TandemError.unauthenticated("who are you?").to_status())
    yield answer


async def _prefix(answer: Any, context: Any) -> AsyncGenerator[Any]:
    await context.abort_with_status(TandemError.prefix_mismatch("no", expected=1, received=2).to_status())
    yield answer


async def _any_status(answer: Any, context: Any) -> AsyncGenerator[Any]:
    await context.abort_with_status(any_status(random.Random(answer.ByteSize())))
    yield answer


GARBAGE: list[Does] = [_no_number, _no_message, _twice_opened, _internal, _unauthenticated, _prefix]


def once_unavailable(error: grpc.aio.AioRpcError) -> bool:
    found = TandemError.from_rpc_error(error)
    return found.reason == "TARGET_UNAVAILABLE" and found.retry_after is not None


@pytest.mark.parametrize("does", GARBAGE)
async def test_a_completion_goes_to_another_target_when_one_begins_with_garbage(does: Does) -> None:
    hostile = scripted(does)
    expected = await known_texts()
    async with fleet(Scene("", [None, hostile], [None])) as services:
        async with asyncio.timeout(120):
            while True:  # the other one may be found first
                found = await asyncio.gather(*(complete(services, way) for way in CERTAIN))
                assert found == expected
                if hostile.times < 10**9:  # it has been asked
                    break
        assert await asyncio.gather(*(complete(services, way) for way in CERTAIN)) == expected
        await _nothing_left(services)


@pytest.mark.parametrize("does", [*GARBAGE, _any_status])
async def test_garbage_of_the_only_target_is_said_to_be_its_fault(does: Does) -> None:
    """Not the caller's, and no defect of the orchestrator."""
    async with fleet(Scene("", [scripted(does)], []), connect_timeout_seconds=1.0) as services:
        for way in CERTAIN[:2]:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await complete(services, way)
            assert caught.value.code() is not grpc.StatusCode.INTERNAL
            if does is not _any_status:
                assert once_unavailable(caught.value), caught.value
        await _nothing_left(services)


async def test_of_answers_that_are_said_again_and_again_only_the_first_counts() -> None:
    """What comes after it has the stream opened anew: a round each, but never a wrong token."""
    expected = await known_texts()
    async with fleet(Scene("", [scripted(_for_ever)], []), connect_timeout_seconds=5.0) as services:
        with suppress(grpc.aio.AioRpcError):
            assert await complete(services, CERTAIN[0]) == expected[0]
        await _nothing_left(services)


async def test_a_target_that_comes_to_its_senses_is_used_again() -> None:
    expected = await known_texts()
    async with fleet(Scene("", [scripted(_no_number, times=2)], [])) as services:
        async with asyncio.timeout(30):
            while True:
                with suppress(grpc.aio.AioRpcError):
                    assert await complete(services, CERTAIN[3]) == expected[3]
                    break



async def test_a_target_whose_facts_cannot_be_read_is_asked_again() -> None:
    """gRPC gives None in the place of such an answer."""
    expected = await known_texts()
    hostile = Scripted(random.Random(0), does=_no_number, times=0, is_unreadable=True)
    async with fleet(Scene("", [hostile], []), connect_timeout_seconds=20.0) as services:
        asked = asyncio.ensure_future(complete(services, CERTAIN[3]))
        async with asyncio.timeout(30):
            while hostile.done["fact"] < 4:
                await asyncio.sleep(0.02)
        hostile.is_unreadable = False
        assert await asked == expected[3]


async def test_loads_that_no_field_can_hold_together_are_told_all_the_same() -> None:
    async with fleet(Scene("", [None, None], [None])) as services:
        await complete(services, CERTAIN[0])
        replicas = services.upstream._targets.replicas
        for replica in replicas:
            replica.load.sessions = replica.load.waiting_blocks = 2**32 - 1
            replica.load.cache_bytes = replica.load.cache_capacity_bytes = 2**64 - 1
            replica.ask = _nobody  # type: ignore[method-assign]
        load = await services.stub.GetLoad(completion_pb2.GetLoadRequest())
        assert (load.target.sessions, load.target.cache_bytes) == (2**32 - 1, 2**64 - 1)


async def _nobody() -> None:
    """What is known stays as it is."""


async def test_what_a_target_cannot_have_is_its_fault() -> None:
    """Requests are checked by what it says of itself: callers would be told that they are at fault."""
    async with fleet(Scene("", [None], [])) as services:
        await complete(services, CERTAIN[3])
        [replica] = services.upstream._targets.replicas
        true, group = replica.model, services.upstream._targets
        assert true is not None
        shared = (model_pb2.VocabularyIntersection(shared_tokens=count) for count in (0, 65))
        changes: list[dict[str, Any]] = [{"vocabulary_size": 0}, {"end_token_ids": [64]}, {"model_id": "x" * 10_000}]
        changes += [
            {"features": model_pb2.Features(family="llama")},
            {"features": model_pb2.Features(width=1, family="x" * 10_000)},
            {"fed_with": model_pb2.Feeding(positions=257)},
        ]
        for change in (*changes, *({"intersection": each} for each in shared)):
            replica.model = type(true)()
            replica.model.CopyFrom(true)
            for name, value in change.items():
                replica.model.ClearField(name)
                if value:
                    replica.model.MergeFrom(type(true)(**{name: value}))
            group.review()
            assert replica.state == "mismatched" and replica.why is not None and "not used" in replica.why.message
        replica.model = true
        group.review()
        assert replica.state == "ready"


@pytest.mark.parametrize("does", [_no_message, _twice_opened, _internal, _any_status, _for_ever])
async def test_garbage_of_a_draft_costs_no_token(does: Does) -> None:
    expected = await known_texts()
    async with fleet(Scene("", [None], [scripted(does)])) as services:
        assert await asyncio.gather(*(complete(services, way) for way in CERTAIN)) == expected
        await _nothing_left(services)


def _ahead(change: Callable[[Any], object]) -> Does:
    """What is said ahead is garbage; all else is as it should be."""

    async def does(answer: Any, context: Any) -> AsyncGenerator[Any]:
        if answer.HasField("ahead"):
            change(answer.ahead)
        yield answer

    return does


async def _ahead_for_ever(answer: Any, context: Any) -> AsyncGenerator[Any]:
    while answer.HasField("ahead"):
        answer.ahead.round = 0
        yield answer
    yield answer


def _other_candidates(ahead: Any) -> None:
    for branch in ahead.branches:
        for index, token in enumerate(branch.block.token_ids):
            branch.block.token_ids[index] = (token + 1) % 64


AHEAD: dict[str, Does] = {
    "no numbers": _ahead(lambda said: said.branches[0].block.ClearField("entropies")),
    "no number": _ahead(lambda said: said.branches[0].block.entropies.__setitem__(0, float("nan"))),
    "no token": _ahead(lambda said: said.branches[0].block.token_ids.__setitem__(0, 64)),
    "another place": _ahead(lambda said: setattr(said.branches[0].block, "position", 1)),
    "a round to come": _ahead(lambda said: setattr(said, "round", 10**6)),
    "twice": _ahead(lambda said: said.branches.append(said.branches[0])),
    "nothing": _ahead(lambda said: said.Clear()),
    "old rounds for ever": _ahead_for_ever,
    "what could be true": _ahead(_other_candidates),
}


@pytest.mark.parametrize("does", AHEAD)
async def test_garbage_that_a_draft_says_ahead_costs_no_token(does: str) -> None:
    expected = await known_texts()
    foresight = Foresight(known(*([1, 2, *text] for text in expected)))
    scene = Scene("", [None], [scripted(AHEAD[does])], foresight=foresight)
    async with fleet(scene, draft_patience_seconds=5.0) as services:
        assert await asyncio.gather(*(complete(services, way) for way in CERTAIN)) == expected
        await _nothing_left(services)


async def test_a_peer_that_says_too_much_is_held_up_by_who_does_not_read() -> None:
    """What nobody asked for waits in the sender, not in the receiver's memory."""
    said = 0

    class Endless(draft_pb2_grpc.DraftServiceServicer):
        async def Draft(self, requests: Any, context: Any) -> AsyncGenerator[draft_pb2.DraftResponse]:
            nonlocal said
            while True:
                said += 1
                yield draft_pb2.DraftResponse(rows={"rows": [{"log_probabilities": b"x" * 100_000}]})

    server = Server()
    server.add(draft_pb2_grpc.add_DraftServiceServicer_to_server, Endless(), "tandem.v1.DraftService")
    async with server, connect(server.address) as channel:
        call = draft_pb2_grpc.DraftServiceStub(channel).Draft()
        await call.write(draft_pb2.DraftRequest())
        await call.read()
        before = -1
        async with asyncio.timeout(30):
            while said != before:  # until nothing more goes through
                before = said
                await asyncio.sleep(0.3)
        assert said < 300  # 30 MB
        call.cancel()


async def test_a_stream_that_was_begun_and_left_holds_nothing() -> None:
    async with fleet(Scene("", [None], [None])) as services:
        for leave_after in (0, 1, 2):
            call = services.stub.Complete(make_request([1, 2], speculation=OFF, max_tokens=400))
            for _ in range(leave_after):
                await call.read()
            call.cancel()
        await _nothing_left(services)


async def _nothing_left(services: Fleet) -> None:
    async with asyncio.timeout(20):
        while any(engine.load().sequences or engine.load().cache_bytes for engine in services.engines):
            await asyncio.sleep(0.01)
