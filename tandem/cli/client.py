"""The command's side of CompletionService."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import tenacity

from tandem.cli.signals import signals_wait
from tandem.client.course import Course
from tandem.client.errors import explained
from tandem.client.orchestrators import Orchestrators, Route
from tandem.client.retries import Deadline, Retries, settings
from tandem.client.stream import Stream
from tandem.rpc.bearer import bearer
from tandem.rpc.channels import connect_blocking
from tandem.rpc.credentials import handshake_problem
from tandem.rpc.errors import UNSPECIFIED, TandemError
from tandem.rpc.tls import ClientTls
from tandem.v1 import completion_pb2, completion_pb2_grpc

# What to say where no service of Tandem has said it.
_TRANSPORT = {
    grpc.StatusCode.UNAVAILABLE: "no orchestrator answers at {endpoint}; start one with `tandem up`",
    grpc.StatusCode.UNIMPLEMENTED: "what answers at {endpoint} is not an orchestrator; name one with --endpoint",
    grpc.StatusCode.DEADLINE_EXCEEDED: "timeout: {endpoint} did not finish within it",
}


# Nobody wants to wait for a service that may not be there at all: each orchestrator is asked once.
_ONCE = Retries(attempts=1)


class Client:
    """Calls an orchestrator, or of several one that answers; blocking."""

    def __init__(self, endpoint: str, *, tls: ClientTls | None = None, api_key: str | None = None) -> None:
        """endpoint: HOST:PORT, or several with commas between. Raises ValueError where it is not, or for `tls` or
        `api_key`."""
        self.endpoint = endpoint
        self._orchestrators = Orchestrators(endpoint)
        self._metadata = bearer(api_key)
        self._channels = {each: connect_blocking(each, tls) for each in self._orchestrators.endpoints}
        self._stubs = {
            each: completion_pb2_grpc.CompletionServiceStub(channel) for each, channel in self._channels.items()
        }

    def complete(
        self, request: completion_pb2.CompleteRequest, *, timeout: float | None = None
    ) -> Iterator[completion_pb2.CompleteResponse]:
        """Streams one completion; leaving the iterator cancels it. timeout: seconds for all of it.

        Of several orchestrators, the next one goes on with it where one is lost. Raises TandemError.
        """
        resumes = len(self._stubs) > 1 and request.n <= 1
        calls: list[Any] = []

        def begin(endpoint: str, asked: completion_pb2.CompleteRequest, left: float | None) -> Any:
            # A call interrupted half begun would make `close` wait for it for ever.
            with signals_wait():
                calls.append(self._stubs[endpoint].Complete(asked, timeout=left, metadata=self._metadata))
            return calls[-1]

        try:
            course = Course(request, self._orchestrators, Deadline(timeout), _ONCE, resumes=resumes)
            stream = Stream(begin, course)
            while (response := stream.next_response()) is not None:
                yield response
        except TandemError as error:
            self._explain(error)
            raise
        finally:
            for call in calls:
                call.cancel()

    def models(self, *, timeout: float | None = 10.0) -> completion_pb2.GetModelsResponse:
        """Raises TandemError."""
        deadline, route = Deadline(timeout), Route(self._orchestrators)

        def attempt() -> completion_pb2.GetModelsResponse:
            call, stub = None, self._stubs[route.endpoint]
            try:
                with signals_wait():
                    call = stub.GetModels.future(
                        completion_pb2.GetModelsRequest(), timeout=deadline.left(), metadata=self._metadata
                    )
                return call.result()
            except grpc.RpcError as error:
                raise route.failed(explained(error, route.endpoint)) from error
            finally:
                if call is not None:
                    call.cancel()

        try:
            return tenacity.Retrying(**settings(_ONCE, deadline, route))(attempt)
        except TandemError as error:
            self._explain(error)
            raise

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def _explain(self, error: TandemError) -> None:
        """Puts it into the command's words, where no service of Tandem has said it."""
        cause = error.__cause__
        problem = handshake_problem(cause) if isinstance(cause, grpc.RpcError) else None
        if error.reason in (UNSPECIFIED, "DEADLINE_EXCEEDED") and error.code in _TRANSPORT and problem is None:
            error.message = _TRANSPORT[error.code].format(endpoint=self.endpoint)
