"""One request as a caller makes it: streamed, timed message by message."""

from __future__ import annotations

import time

import grpc

from bench.serve.records import Record
from tandem.cli.errors import CliError
from tandem.rpc.channels import ChannelPool
from tandem.rpc.errors import TandemError
from tandem.v1 import completion_pb2, completion_pb2_grpc

#: What load can do to a request. Any other error is a defect, of the bench or of a service.
OF_LOAD = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

#: Connections that callers share.
CONNECTIONS = 8
# So long requests may fail without a token in between before the service counts as gone.
_PATIENCE_SECONDS = 30.0

clock = time.perf_counter


class Caller:
    """Calls one orchestrator; an async context manager."""

    def __init__(self, endpoint: str, *, timeout: float, patience: float = _PATIENCE_SECONDS) -> None:
        """timeout: seconds of one request from when it is sent. Raises ValueError where `endpoint` is no HOST:PORT."""
        self._channels = ChannelPool(endpoint, CONNECTIONS)
        self._timeout = timeout
        self._patience = patience
        self._failing_since: float | None = None

    async def call(self, request: completion_pb2.CompleteRequest, record: Record) -> TandemError | None:
        """Sends one request and keeps its record up to date. Returns the error that load has caused, if any.

        Raises TandemError for any other error, and where nothing but errors has come for a long time.
        """
        with self._channels.lease() as channel:
            stream = completion_pb2_grpc.CompletionServiceStub(channel).Complete(request, timeout=self._timeout)
            try:
                async for response in stream:
                    if response.token_ids:
                        record.arrivals.append((clock(), len(response.token_ids)))
                        self._failing_since = None
                    if response.HasField("finish"):
                        record.finish = response.finish
            except grpc.aio.AioRpcError as rpc_error:
                error = TandemError.from_rpc_error(rpc_error)
                record.ended, record.failure = clock(), error.code.name
                self._check(error)
                return error
            finally:
                stream.cancel()  # one that came to its end has nothing left to cancel
        record.ended = clock()
        return None

    async def once(self, request: completion_pb2.CompleteRequest) -> None:
        """Raises TandemError for any error."""
        if error := await self.call(request, Record(clock())):
            raise error

    async def check_draft(self) -> None:
        """Raises CliError where no draft is there any more: what speculates then measures the target alone."""
        with self._channels.lease() as channel:
            stub = completion_pb2_grpc.CompletionServiceStub(channel)
            try:
                models = await stub.GetModels(completion_pb2.GetModelsRequest(), timeout=self._timeout)
            except grpc.aio.AioRpcError as error:
                raise TandemError.from_rpc_error(error) from error
        if not models.HasField("draft"):
            raise CliError("the draft service does not answer any more")

    def _check(self, error: TandemError) -> None:
        if error.code not in OF_LOAD:
            raise error
        now = clock()
        self._failing_since = now if self._failing_since is None else self._failing_since
        if now - self._failing_since > self._patience:
            raise error

    async def __aenter__(self) -> Caller:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channels.close()
