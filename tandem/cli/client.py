"""The command's side of CompletionService."""

from __future__ import annotations

from collections.abc import Iterator

import grpc

from tandem.rpc.channels import CLIENT_OPTIONS, check_endpoint
from tandem.rpc.errors import TandemError
from tandem.v1 import completion_pb2, completion_pb2_grpc


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
        call = self._stub.Complete(request, timeout=timeout)
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._explain(error) from error
        finally:
            call.cancel()

    def models(self, *, timeout: float | None = 10.0) -> completion_pb2.GetModelsResponse:
        """Raises TandemError."""
        try:
            return self._stub.GetModels(completion_pb2.GetModelsRequest(), timeout=timeout)
        except grpc.RpcError as error:
            raise self._explain(error) from error

    def close(self) -> None:
        self._channel.close()

    def _explain(self, error: grpc.RpcError) -> TandemError:
        explained = TandemError.from_rpc_error(error)
        if explained.reason == "UNSPECIFIED" and explained.code is grpc.StatusCode.UNAVAILABLE:
            explained.message = f"no orchestrator answers at {self.endpoint}; start one with `tandem up`"
        return explained
