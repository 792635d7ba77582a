"""The command's side of CompletionService."""

from __future__ import annotations

from collections.abc import Iterator

import grpc

from tandem.cli.signals import signals_wait
from tandem.rpc.channels import CLIENT_OPTIONS, check_endpoint
from tandem.rpc.errors import UNSPECIFIED, TandemError
from tandem.v1 import completion_pb2, completion_pb2_grpc

# What to say where no service of Tandem has said it.
_TRANSPORT = {
    grpc.StatusCode.UNAVAILABLE: "no orchestrator answers at {endpoint}; start one with `tandem up`",
    grpc.StatusCode.UNIMPLEMENTED: "what answers at {endpoint} is not an orchestrator; name one with --endpoint",
    grpc.StatusCode.DEADLINE_EXCEEDED: "timeout: {endpoint} did not finish within it",
}


class Client:
    """Calls one orchestrator; blocking."""

    def __init__(self, endpoint: str) -> None:
        """Raises ValueError where `endpoint` is not HOST:PORT."""
        self.endpoint = check_endpoint(endpoint)
        self._channel = grpc.insecure_channel(endpoint, options=CLIENT_OPTIONS)
        self._stub = completion_pb2_grpc.CompletionServiceStub(self._channel)

    def complete(
        self, request: completion_pb2.CompleteRequest, *, timeout: float | None = None
    ) -> Iterator[completion_pb2.CompleteResponse]:
        """Streams one completion; leaving the iterator cancels it. timeout: seconds for all of it.

        Raises TandemError.
        """
        call = None
        try:
            # A call interrupted half begun would make `close` wait for it for ever.
            with signals_wait():
                call = self._stub.Complete(request, timeout=timeout)
            yield from call
        except grpc.RpcError as error:
            raise self._explain(error) from error
        finally:
            if call is not None:
                call.cancel()

    def models(self, *, timeout: float | None = 10.0) -> completion_pb2.GetModelsResponse:
        """Raises TandemError."""
        call = None
        try:
            with signals_wait():
                call = self._stub.GetModels.future(completion_pb2.GetModelsRequest(), timeout=timeout)
            return call.result()
        except grpc.RpcError as error:
            raise self._explain(error) from error
        finally:
            if call is not None:
                call.cancel()

    def close(self) -> None:
        self._channel.close()

    def _explain(self, error: grpc.RpcError) -> TandemError:
        explained = TandemError.from_rpc_error(error)
        if explained.reason == UNSPECIFIED and explained.code in _TRANSPORT:
            explained.message = _TRANSPORT[explained.code].format(endpoint=self.endpoint)
        return explained
