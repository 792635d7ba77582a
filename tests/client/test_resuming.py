"""A stream outlives the orchestrator that began it: no token is missing and none comes twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

import tandem
from orchestrator.server import CompletionServicer
from tandem.cli.client import Client as CommandClient
from tandem.client import BadInputError, Completion, Delta, Retries, TandemError, UnavailableError
from tandem.rpc.server import Server
from tandem.v1 import completion_pb2, completion_pb2_grpc
from tests.client.conftest import CLOSED
from tests.support.fleet import CONTEXT, Fleet, Orchestrator, Service, fleet
from tests.support.gate import Gate, until
from tests.support.tiny import tiny_llama
from tests.support.tiny_orchestrator import tiny_orchestrator
from tests.support.trio import make_request, policy

PROMPT = [1, 2]
LENGTH = 120
QUICK = Retries(attempts=4, first_wait_seconds=0.02, most_wait_seconds=0.1)
#: Temperature 0 and the coupled rule: one text, however often it is interrupted.
KINDS: dict[str, dict[str, Any]] = {
    "greedy alone": {"speculation": "off"},
    "greedy": {"speculation": policy("fixed", "exact", max_tokens=3), "echo": True, "return_prompt_token_ids": True},
    "coupled": {"speculation": policy("fixed", "coupled", max_tokens=3), "temperature": 1.0, "seed": 11},
}


@dataclass(slots=True)
class Two:
    """Two orchestrators before the same services. target: which counts the streams that come. gate: of its model."""

    by_endpoint: dict[str, Orchestrator]
    target: Service
    draft: Service
    gate: Gate

    @property
    def endpoints(self) -> list[str]:
        return list(self.by_endpoint)

    def hold(self) -> None:
        """The next completion does not come to its end before one was killed."""
        self.gate.close(35)

    async def kill(self, endpoint: str) -> None:
        await self.by_endpoint[endpoint].server._stop(None)
        self.gate.open()


@pytest.fixture
async def made() -> AsyncIterator[Fleet]:
    async with fleet() as running:
        yield running


@pytest.fixture
async def two(made: Fleet) -> Two:
    loaded = tiny_llama(1, context=CONTEXT)
    gate = Gate(loaded)
    target, draft = await made.target(loaded), await made.draft()
    both = [await made.orchestrator([target], [draft]) for _ in range(2)]
    for each in both:
        await each.until(target, draft)
    return Two({each.server.address: each for each in both}, target, draft, gate)


def options(kind: str) -> dict[str, Any]:
    return {"max_tokens": LENGTH, "ignore_end_tokens": True, **KINDS[kind]}


Kill = Callable[[str], Awaitable[None]]


async def read_async(endpoints: Any, kill: Kill, **asked: Any) -> tuple[list[Delta], Completion]:
    """All deltas, and what they are together; the orchestrator is killed after some of them."""
    async with tandem.AsyncClient(endpoints, retries=QUICK, timeout=60.0) as client:
        deltas: list[Delta] = []
        async with client.stream(PROMPT, resume=True, **asked) as stream:
            async for delta in stream:
                deltas.append(delta)
                if len(deltas) == 20:
                    await kill(client.endpoint)
            return deltas, await stream.result()


async def read_blocking(endpoints: Any, kill: Kill, **asked: Any) -> tuple[list[Delta], Completion]:
    loop = asyncio.get_running_loop()

    def read() -> tuple[list[Delta], Completion]:
        with tandem.Client(endpoints, retries=QUICK, timeout=60.0) as client:
            deltas: list[Delta] = []
            with client.stream(PROMPT, resume=True, **asked) as stream:
                for delta in stream:
                    deltas.append(delta)
                    if len(deltas) == 20:
                        asyncio.run_coroutine_threadsafe(_awaited(kill(client.endpoint)), loop).result()
                return deltas, stream.result()

    return await asyncio.to_thread(read)


async def _awaited(work: Awaitable[None]) -> None:
    await work


@pytest.mark.parametrize("read", [read_async, read_blocking], ids=["async", "blocking"])
@pytest.mark.parametrize("kind", KINDS)
async def test_another_orchestrator_goes_on_with_it(two: Two, kind: str, read: Any) -> None:
    asked = options(kind)
    async with tandem.AsyncClient(two.endpoints) as client:
        whole = await client.complete(PROMPT, **asked)
    before = two.target.streams
    two.hold()
    deltas, found = await read(",".join(two.endpoints), two.kill, **asked)
    assert two.target.streams == before + 2, "it was not interrupted"
    assert found.token_ids == whole.token_ids and found.text == whole.text
    assert tuple(token for delta in deltas for token in delta.token_ids) == whole.token_ids
    assert [delta.finish for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (2, LENGTH)
    assert found.prompt_token_ids == whole.prompt_token_ids
    assert len({delta.request_id for delta in deltas}) == 1


async def test_a_seed_is_drawn_so_that_both_parts_have_it(two: Two) -> None:
    asked = {**options("coupled"), "seed": None}
    two.hold()
    _, found = await read_async(two.endpoints, two.kill, **asked)
    async with tandem.AsyncClient(two.endpoints) as client:
        assert (await client.complete(PROMPT, **{**asked, "seed": found.finish.seed})).text == found.text


async def test_the_command_goes_on_by_itself(two: Two) -> None:
    request = make_request(PROMPT, max_tokens=LENGTH, ignore_end_tokens=True, speculation={"off": True})
    whole = await next(iter(two.by_endpoint.values())).complete(max_tokens=LENGTH, ignore_end_tokens=True)
    loop, before = asyncio.get_running_loop(), two.target.streams
    two.hold()

    def read() -> list[int]:
        client, tokens = CommandClient(",".join(two.endpoints)), list[int]()
        for response in client.complete(request, timeout=60.0):
            tokens += response.token_ids
            if len(tokens) == 20:
                killing = two.kill(client._orchestrators.current)
                asyncio.run_coroutine_threadsafe(killing, loop).result()
        client.close()
        return tokens

    assert await asyncio.to_thread(read) == list(whole.token_ids) and two.target.streams == before + 2


async def test_one_that_is_killed_as_a_process_is_gone_on_without(two: Two) -> None:
    asked, loop = options("coupled"), asyncio.get_running_loop()
    async with tandem.AsyncClient(two.endpoints) as client:
        whole = await client.complete(PROMPT, **asked)
    with ExitStack() as stack:
        starting = tiny_orchestrator(two.target.address, two.draft.address)
        process, endpoint = await loop.run_in_executor(None, stack.enter_context, starting)
        before = two.target.streams
        two.hold()

        async def kill(at: str) -> None:
            if at == endpoint:
                os.kill(process.pid, signal.SIGKILL)
                two.gate.open()
            else:  # chance has named the other first
                await two.kill(at)

        _, found = await read_async([endpoint, two.endpoints[0]], kill, **asked)
        assert found.text == whole.text and two.target.streams == before + 2


async def test_the_only_one_is_waited_for_until_it_is_back(two: Two) -> None:
    endpoint = two.endpoints[0]
    whole = await two.by_endpoint[endpoint].complete(max_tokens=LENGTH, ignore_end_tokens=True)
    retries = Retries(attempts=100, first_wait_seconds=0.05, most_wait_seconds=0.2)
    async with tandem.AsyncClient(endpoint, retries=retries, timeout=60.0) as client:
        two.hold()
        stream = client.stream(PROMPT, resume=True, **options("greedy alone"))
        for _ in range(20):
            await anext(stream)
        await two.kill(endpoint)
        rest = asyncio.create_task(stream.result())
        await asyncio.sleep(0.3)
        assert not rest.done()
        await two.by_endpoint[endpoint].server.start()
        assert (await rest).token_ids == tuple(whole.token_ids)


async def test_a_call_that_nothing_came_of_is_made_at_the_next(two: Two) -> None:
    """Each is asked once before anybody waits; what answers is stayed with."""
    endpoints = [CLOSED, *two.endpoints]
    slow = Retries(attempts=1)
    for _ in range(6):  # whichever chance names
        async with tandem.AsyncClient(endpoints, retries=slow, timeout=30.0) as client:
            assert (await client.models()).draft is not None
            first = client.endpoint
            assert first != CLOSED and len((await client.complete(PROMPT, max_tokens=3)).token_ids) == 3
            assert client.endpoint == first
        found = await asyncio.to_thread(_complete, endpoints)
        assert len(found.token_ids) == 3
    with pytest.raises(UnavailableError):
        await asyncio.to_thread(_complete, [CLOSED, "127.0.0.1:2"])


def _complete(endpoints: list[str]) -> Completion:
    with tandem.Client(endpoints, retries=Retries(attempts=1), timeout=30.0) as client:
        client_models = client.models()
        assert client_models.target.model_id
        return client.complete(PROMPT, max_tokens=3)


class Breaking:
    """Stands before an orchestrator, and ends the first call after some messages."""

    def __init__(self, behind: completion_pb2_grpc.CompletionServiceStub, error: TandemError) -> None:
        self._behind, self._error = behind, error
        self.after = 5
        self.requests: list[completion_pb2.CompleteRequest] = []

    async def stream(
        self, request: completion_pb2.CompleteRequest
    ) -> AsyncGenerator[completion_pb2.CompleteResponse]:
        self.requests.append(request)
        passed = 0
        async for response in self._behind.Complete(request):
            if len(self.requests) == 1 and passed == self.after:
                raise self._error
            yield response
            passed += 1


@pytest.fixture
async def breaking(made: Fleet, two: Two) -> Callable[[TandemError], Awaitable[tuple[Breaking, str]]]:
    async def start(error: TandemError) -> tuple[Breaking, str]:
        servant = Breaking(two.by_endpoint[two.endpoints[0]].stub, error)
        server, servicer = Server(grace_seconds=0), CompletionServicer(servant)  # type: ignore[arg-type]
        server.add(
            completion_pb2_grpc.add_CompletionServiceServicer_to_server, servicer, "tandem.v1.CompletionService"
        )
        await made.stack.enter_async_context(server)
        return servant, server.address

    return start


@pytest.mark.parametrize(
    ("error", "helps"),
    [
        (TandemError.shutting_down(retry_after=0.01), True),
        (TandemError("TARGET_UNAVAILABLE", "lost", retry_after=0.01), True),
        (TandemError.overloaded("full", retry_after=0.01), True),
        (TandemError.internal(), False),
        (TandemError.not_finite(), False),
        (TandemError.deadline_exceeded(), False),
    ],
    ids=lambda value: value.reason if isinstance(value, TandemError) else "",
)
async def test_only_what_may_not_come_again_is_gone_on_from(breaking: Any, error: TandemError, helps: bool) -> None:
    servant, endpoint = await breaking(error)
    asked = {"max_tokens": 30, "ignore_end_tokens": True, "speculation": "off"}
    async with tandem.AsyncClient(endpoint, retries=QUICK) as client:
        stream = client.stream(PROMPT, resume=True, **asked)
        if not helps:
            with pytest.raises(TandemError) as caught:
                await stream.result()
            assert caught.value.reason == error.reason and len(servant.requests) == 1
            return
        found = await stream.result()
        assert len(found.token_ids) == 30 and found.usage.completion_tokens == 30
        again = servant.requests[1]
        assert list(again.resume.ids) == list(found.token_ids[:5]) and again.request_id == found.request_id


async def test_what_is_told_of_the_prompt_comes_once(breaking: Any) -> None:
    """Its tokens have come, and its text has not."""
    servant, endpoint = await breaking(TandemError.shutting_down(retry_after=0.01))
    servant.after = 1
    asked = {"max_tokens": 10, "ignore_end_tokens": True, "speculation": "off", "echo": True}
    async with tandem.AsyncClient(endpoint, retries=QUICK) as client:
        found = await client.stream(PROMPT, resume=True, return_prompt_token_ids=True, **asked).result()
        expected = await client.complete(PROMPT, return_prompt_token_ids=True, **asked)
    assert len(servant.requests) == 3
    assert (found.text, found.prompt_token_ids) == (expected.text, expected.prompt_token_ids) and len(found.text) >= 12


async def test_a_stream_that_is_not_to_be_resumed_ends_where_it_was_lost(two: Two) -> None:
    async with tandem.AsyncClient(two.endpoints, retries=QUICK) as client:
        two.hold()
        stream = client.stream(PROMPT, **options("greedy alone"))
        await anext(stream)
        await two.kill(client.endpoint)
        with pytest.raises(TandemError):
            await stream.result()


async def test_closing_ends_the_wait_for_one_that_is_back(two: Two) -> None:
    retries = Retries(attempts=100, first_wait_seconds=20.0, most_wait_seconds=20.0)
    endpoint, loop = two.endpoints[0], asyncio.get_running_loop()

    def read() -> int:
        with tandem.Client(endpoint, retries=retries) as client:
            two.hold()
            stream = client.stream(PROMPT, resume=True, **options("greedy alone"))
            next(stream)
            asyncio.run_coroutine_threadsafe(two.kill(endpoint), loop).result()
            loop.call_later(0.5, stream.close)
            return len(list(stream))

    assert await asyncio.wait_for(asyncio.to_thread(read), 15) < LENGTH
    await until(lambda: two.target.engine.load().sequences == 0)


async def test_several_choices_cannot_be_resumed(two: Two) -> None:
    async with tandem.AsyncClient(two.endpoints) as client:
        with pytest.raises(BadInputError) as caught:
            client.stream(PROMPT, resume=True, n=2, temperature=1.0)
    assert caught.value.field == "n"


@pytest.mark.parametrize("wrong", ["", [], "a:1,", "a:1,b", ["a:1", "b:0"], ","])
def test_every_endpoint_is_host_and_port(wrong: Any) -> None:
    for kind in (tandem.Client, tandem.AsyncClient, CommandClient):
        with pytest.raises(ValueError, match="HOST:PORT"):
            kind(wrong)


def test_first_is_whichever_chance_names() -> None:
    names = [f"127.0.0.1:{port}" for port in range(1, 5)]
    assert {tandem.AsyncClient(names).endpoint for _ in range(200)} == set(names)
