"""Calls are made again only where nothing was delivered, it may help, and there is time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

import tandem
from orchestrator.server import CompletionServicer
from tandem.client import BadInputError, BusyError, Completion, Retries, UnavailableError
from tandem.rpc.errors import TandemError
from tandem.rpc.server import Server
from tandem.v1 import completion_pb2, completion_pb2_grpc
from tests.support.trio import Trio

QUICK = Retries(attempts=4, first_wait_seconds=0.02, most_wait_seconds=0.1)
Fail = Callable[[], Exception]


class Front:
    """Stands before a real orchestrator as a proxy does, and lets the first calls fail.

    fails: errors of the first calls, in order. after: messages that are let through before they do.
    """

    def __init__(self, behind: completion_pb2_grpc.CompletionServiceStub, fails: list[Exception], after: int) -> None:
        self._behind, self._fails, self._after = behind, fails, after
        self.calls: list[float] = []

    def _next(self) -> Exception | None:
        self.calls.append(time.monotonic())
        return self._fails.pop(0) if self._fails else None

    async def stream(
        self, request: completion_pb2.CompleteRequest
    ) -> AsyncGenerator[completion_pb2.CompleteResponse]:
        failure, passed = self._next(), 0
        async for response in self._behind.Complete(request):
            if failure is not None and passed == self._after:
                raise failure
            yield response
            passed += 1

    async def models(self) -> completion_pb2.GetModelsResponse:
        failure = self._next()
        if failure is not None:
            raise failure
        return await self._behind.GetModels(completion_pb2.GetModelsRequest())


@pytest.fixture
async def front(services: Trio) -> AsyncIterator[Callable[..., Any]]:
    """`await front(ERROR, ..., after=0)` gives the front and its endpoint."""
    async with AsyncExitStack() as stack:

        async def start(*fails: Exception, after: int = 0) -> tuple[Front, str]:
            made = Front(services.stub, list(fails), after)
            server = Server(grace_seconds=0)
            servicer: Any = CompletionServicer(made)  # type: ignore[arg-type]
            server.add(
                completion_pb2_grpc.add_CompletionServiceServicer_to_server, servicer, "tandem.v1.CompletionService"
            )
            await stack.enter_async_context(server)
            return made, server.address

        yield start


def busy(seconds: float) -> TandemError:
    return TandemError.overloaded("no room", retry_after=seconds)


def gone() -> TandemError:
    return TandemError.shutting_down(retry_after=0.01)


async def both_ways(endpoint: str, **options: Any) -> list[Completion]:
    async with tandem.AsyncClient(endpoint, retries=QUICK) as client:
        found = [await client.complete("x", max_tokens=6, **options)]

    def blocking() -> Completion:
        with tandem.Client(endpoint, retries=QUICK) as other:
            return other.complete("x", max_tokens=6, **options)

    return [*found, await asyncio.to_thread(blocking)]


async def test_what_failed_before_the_first_token_is_made_again_when_it_was_told_to(front: Any) -> None:
    made, endpoint = await front(busy(0.3), gone())
    async with tandem.AsyncClient(endpoint, retries=QUICK) as client:
        whole = await client.complete("x", max_tokens=6)
    assert len(whole.token_ids) == 6 and len(made.calls) == 3
    first, second, third = made.calls
    assert 0.3 <= second - first < 0.3 * 1.5 + 0.3 and third - second < 0.3
    made, endpoint = await front(busy(0.3))

    def blocking() -> Completion:
        with tandem.Client(endpoint, retries=QUICK) as client, client.stream("x", max_tokens=6) as stream:
            return stream.result()

    assert (await asyncio.to_thread(blocking)).text == whole.text
    assert len(made.calls) == 2 and made.calls[1] - made.calls[0] >= 0.3


@pytest.mark.parametrize("after", [1, 3])
async def test_nothing_is_made_again_after_a_token_was_delivered(front: Any, after: int) -> None:
    made, endpoint = await front(gone(), gone(), after=after)
    seen = 0
    async with tandem.AsyncClient(endpoint, retries=QUICK) as client:
        with pytest.raises(UnavailableError):
            async for _ in client.stream("x", max_tokens=6):
                seen += 1
    assert (seen, len(made.calls)) == (after, 1)

    def blocking() -> None:
        with tandem.Client(endpoint, retries=QUICK) as client, pytest.raises(UnavailableError):
            client.complete("x", max_tokens=6)

    await asyncio.to_thread(blocking)
    assert len(made.calls) == 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TandemError.invalid_field("stop", "is wrong"), BadInputError),
        (TandemError.not_supported("stop", "is new"), BadInputError),
        (TandemError.out_of_memory("will never fit"), BusyError),
        (TandemError.internal(), TandemError),
        (TandemError.not_finite(), TandemError),
    ],
    ids=lambda value: getattr(value, "reason", ""),
)
async def test_what_would_fail_again_is_not_made_again(front: Any, error: TandemError, kind: type) -> None:
    made, endpoint = await front(error, error)
    for number in (1, 2):
        with pytest.raises(kind) as caught:
            await (both_ways(endpoint) if number == 1 else _blocking(endpoint))
        assert len(made.calls) == number and caught.value.reason == error.reason


async def _blocking(endpoint: str) -> Completion:
    def call() -> Completion:
        with tandem.Client(endpoint, retries=QUICK) as client:
            return client.complete("x", max_tokens=6)

    return await asyncio.to_thread(call)


async def test_the_budget_of_attempts_is_kept_and_the_last_error_told(front: Any) -> None:
    made, endpoint = await front(*(busy(0.01) for _ in range(20)))
    with pytest.raises(BusyError) as caught:
        await both_ways(endpoint)
    assert len(made.calls) == QUICK.attempts
    assert (caught.value.reason, caught.value.retry_after) == ("OVERLOADED", 0.01)
    with pytest.raises(BusyError):
        await _blocking(endpoint)
    assert len(made.calls) == 2 * QUICK.attempts
    async with tandem.AsyncClient(endpoint, retries=Retries(attempts=1)) as client:
        with pytest.raises(BusyError):
            await client.models()
    assert len(made.calls) == 2 * QUICK.attempts + 1


async def test_a_wait_beyond_the_deadline_is_not_begun(front: Any) -> None:
    made, endpoint = await front(busy(30.0), busy(30.0))
    began = time.monotonic()
    async with tandem.AsyncClient(endpoint, retries=QUICK) as client:
        with pytest.raises(BusyError) as caught:
            await client.complete("x", timeout=2.0)
    assert caught.value.retry_after == 30.0

    def blocking() -> None:
        with tandem.Client(endpoint, retries=QUICK, timeout=2.0) as client, pytest.raises(BusyError):
            client.models()

    await asyncio.to_thread(blocking)
    assert time.monotonic() - began < 2.0 and len(made.calls) == 2


async def test_the_timeout_is_of_all_attempts_together(front: Any) -> None:
    made, endpoint = await front(busy(0.2), busy(0.2))
    async with tandem.AsyncClient(endpoint, retries=QUICK) as client:
        began = time.monotonic()
        with pytest.raises((TimeoutError, BusyError)):
            await client.complete("x", timeout=1.0, max_tokens=30_000, ignore_end_tokens=True)
        assert time.monotonic() - began < 2.0  # each of them would have had 1.0
    assert len(made.calls) >= 2


async def test_unary_calls_are_made_again_too(front: Any) -> None:
    made, endpoint = await front(gone(), busy(0.05), gone())
    async with tandem.AsyncClient(endpoint, retries=QUICK) as client:
        assert (await client.models()).target.model_id == "tiny"
    assert len(made.calls) == 4


async def test_closing_a_stream_ends_its_wait_for_another_attempt(front: Any) -> None:
    made, endpoint = await front(busy(20.0))
    with tandem.Client(endpoint) as client:
        stream = client.stream("x")
        reading = asyncio.create_task(asyncio.to_thread(list, stream))
        while not made.calls:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)  # the failure has arrived, and it waits
        assert not reading.done()
        stream.close()
        assert await asyncio.wait_for(reading, 5.0) == [] and len(made.calls) == 1


async def test_an_orchestrator_that_starts_late_is_found() -> None:
    server = Server(grace_seconds=0)
    await server.start()
    port = server.port
    await server._stop(None)
    late = Server(port=port, grace_seconds=0)
    models = completion_pb2.GetModelsResponse(target={"model_id": "late"})

    class Late:
        async def models(self) -> completion_pb2.GetModelsResponse:
            return models

    servicer: Any = CompletionServicer(Late())  # type: ignore[arg-type]
    late.add(completion_pb2_grpc.add_CompletionServiceServicer_to_server, servicer, "tandem.v1.CompletionService")
    retries = Retries(attempts=20, first_wait_seconds=0.1, most_wait_seconds=0.3)
    async with tandem.AsyncClient(f"127.0.0.1:{port}", retries=retries, timeout=10.0) as client:
        asked = asyncio.create_task(client.models())
        await asyncio.sleep(0.3)
        async with late:
            assert (await asked).target.model_id == "late"


def test_retries_that_make_no_sense_are_refused() -> None:
    for wrong in ({"attempts": 0}, {"first_wait_seconds": 0.0}, {"first_wait_seconds": 9.0, "most_wait_seconds": 1.0}):
        with pytest.raises(ValueError):
            Retries(**wrong)
