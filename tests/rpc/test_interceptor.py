from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import grpc
import pytest

from tandem.rpc.errors import TandemError
from tandem.v1.completion_pb2 import CompleteRequest, CompleteResponse
from tandem.v1.target_pb2 import GetTargetModelRequest, GetTargetModelResponse, VerifyRequest, VerifyResponse


async def unary(serve, fail: Callable[[], None]) -> None:
    async def handler(request, context):
        fail()

    await (await serve(GetTargetModel=handler)).target.GetTargetModel(GetTargetModelRequest())


async def server_stream(serve, fail: Callable[[], None]) -> None:
    async def handler(request, context):
        yield CompleteResponse(text="before")
        fail()

    stream = (await serve(Complete=handler)).completion.Complete(CompleteRequest())
    assert (await stream.read()).text == "before"
    await stream.read()


async def writing_stream(serve, fail: Callable[[], None]) -> None:
    async def handler(request, context):
        await context.write(CompleteResponse(text="before"))
        fail()

    stream = (await serve(Complete=handler)).completion.Complete(CompleteRequest())
    assert (await stream.read()).text == "before"
    await stream.read()


async def bidirectional_stream(serve, fail: Callable[[], None]) -> None:
    async def handler(requests, context):
        async for _ in requests:
            yield VerifyResponse()
            fail()

    stream = (await serve(Verify=handler)).target.Verify()
    await stream.write(VerifyRequest())
    assert await stream.read() == VerifyResponse()
    await stream.read()


KINDS = [unary, server_stream, writing_stream, bidirectional_stream]


@pytest.mark.parametrize("call", KINDS)
async def test_an_error_of_the_catalogue_reaches_the_caller(
    serve, call: Callable[..., Awaitable[None]]
) -> None:
    def fail() -> None:
        raise TandemError.overloaded("full", retry_after=3)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(serve, fail)
    error = TandemError.from_rpc_error(caught.value)
    assert (error.reason, error.retry_after) == ("OVERLOADED", 3)


@pytest.mark.parametrize("call", KINDS)
async def test_a_defect_is_internal_and_its_trace_stays_in_the_log(
    serve, call: Callable[..., Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise KeyError("a secret of the inside")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(serve, fail)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert TandemError.from_rpc_error(caught.value).reason == "INTERNAL"
    assert "secret" not in repr(caught.value) and "Traceback" not in repr(caught.value)
    logged = [record for record in caplog.records if record.name == "tandem.rpc.interceptor"]
    assert [record.levelno for record in logged] == [logging.ERROR]
    assert "a secret of the inside" in caplog.text and "in fail" in caplog.text


async def test_an_abort_by_the_handler_keeps_its_status(serve) -> None:
    async def handler(request, context):
        await context.abort(grpc.StatusCode.NOT_FOUND, "not here")

    served = await serve(GetTargetModel=handler)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.target.GetTargetModel(GetTargetModelRequest())
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "not here")


@pytest.mark.parametrize("while_writing", [False, True])
async def test_a_cancelled_stream_is_cleaned_up_at_once_and_is_no_error(
    serve, while_writing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    freed, forever = asyncio.Event(), asyncio.Event()

    async def handler(requests, context):
        try:
            yield VerifyResponse()
            while while_writing:  # fills the stream's window until a write blocks: nobody reads
                yield VerifyResponse(verified={"target_token_ids": [7] * 100_000})
            await forever.wait()
        finally:
            freed.set()

    stream = (await serve(Verify=handler)).target.Verify()
    await stream.read()
    stream.cancel()
    await asyncio.wait_for(freed.wait(), 10)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_answers_pass_through_unchanged(serve) -> None:
    async def handler(request, context):
        return GetTargetModelResponse(model={"model_id": "tiny"})

    served = await serve(GetTargetModel=handler)
    assert (await served.target.GetTargetModel(GetTargetModelRequest())).model.model_id == "tiny"


async def test_a_misuse_of_grpc_is_a_defect_like_any_other(serve) -> None:
    async def handler(request, context):
        raise grpc.aio.UsageError("written twice")

    served = await serve(GetTargetModel=handler)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.target.GetTargetModel(GetTargetModelRequest())
    assert TandemError.from_rpc_error(caught.value).reason == "INTERNAL"
