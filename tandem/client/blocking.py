"""`tandem.Client`: blocking calls of an orchestrator, or of several."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
import tenacity

from tandem.client.answers import Completion
from tandem.client.course import Course
from tandem.client.errors import explained
from tandem.client.mirror import mirrored
from tandem.client.options import Options
from tandem.client.orchestrators import Orchestrators, Route
from tandem.client.prompts import AnyMessage, AnyTool, JsonObject, Prompt
from tandem.client.requests import complete_request, detokenize_request, tokenize_request
from tandem.client.retries import Deadline, Retries, settings
from tandem.client.services import Load, Models, Tokens
from tandem.client.stream import Stream
from tandem.rpc.bearer import bearer
from tandem.rpc.channels import connect_blocking
from tandem.rpc.tls import ClientTls
from tandem.v1 import completion_pb2, completion_pb2_grpc


class Client:
    """Calls an orchestrator.

        with Client("127.0.0.1:7000") as client:
            print(client.complete("Once upon a time", max_tokens=64).text)
            for delta in client.stream([{"role": "user", "content": "Hello!"}], speculation="lossless"):
                print(delta.text, end="", flush=True)

    endpoint: HOST:PORT, or several with commas between or as a list: orchestrators over the same target. Calls go to
    one of them, at first whichever chance names, for as long as it answers; one that fails before anything came is made
    at the next, and a stream that is to be resumed goes on there. timeout: seconds within which a call has to be
    done, where it names none itself; None for no limit. retries: of calls that failed and may succeed when made again.
    tls: which servers to trust and what to show them, read now; None for a plain connection. api_key: where the
    orchestrator asks for one; over a plain connection, everybody on the way can read it.

    Connects at the first call. Threads may share it: it is a connection with as many calls at once as there are. A
    process that was forked may not: gRPC's threads are not in it; make a client in each. Calls raise TandemError,
    mostly one of BadInputError, BusyError, UnavailableError and DeadlineError.
    """

    def __init__(
        self,
        endpoint: str | Sequence[str],
        *,
        timeout: float | None = None,
        retries: Retries | None = None,
        tls: ClientTls | None = None,
        api_key: str | None = None,
    ) -> None:
        """Raises ValueError where `endpoint` is not HOST:PORT or `api_key` is no key, TlsError (one too) for `tls`."""
        self._orchestrators = Orchestrators(endpoint)
        self._timeout = timeout
        self._retries = retries or Retries()
        self._metadata = bearer(api_key)
        self._process = os.getpid()
        self._channels = {each: connect_blocking(each, tls) for each in self._orchestrators.endpoints}
        self._stubs = {
            each: completion_pb2_grpc.CompletionServiceStub(channel) for each, channel in self._channels.items()
        }

    @property
    def endpoint(self) -> str:
        """Where calls go now."""
        return self._orchestrators.current

    def complete(
        self, prompt: Prompt, *, timeout: float | None = None, resume: bool = False, **options: Unpack[Options]
    ) -> Completion:
        """A whole completion. resume: as of `stream`. Raises TandemError."""
        with self.stream(prompt, timeout=timeout, resume=resume, **options) as stream:
            return stream.result()

    def stream(
        self, prompt: Prompt, *, timeout: float | None = None, resume: bool = False, **options: Unpack[Options]
    ) -> Stream:
        """A completion as it comes. Raises TandemError, here for what no request can hold, else where it is read.

        resume: where the orchestrator is lost in the middle, to go on at the next one, or at the same once it is back,
        from the tokens that are there, with no delta twice and none missing; within `retries`. With temperature 0 or
        the coupled rule the text is the same as without the loss. For one choice; a seed is drawn where there is none.
        Of the usage, drafted tokens are told of the last part alone, as is what speculation did.
        """
        request, deadline = complete_request(prompt, options), self._deadline(timeout)
        self._check_process()
        return Stream(self._begin, Course(request, self._orchestrators, deadline, self._retries, resumes=resume))

    def models(self, *, timeout: float | None = None) -> Models:
        """What is served. Raises TandemError."""
        models: Models = mirrored(self._call("GetModels", completion_pb2.GetModelsRequest(), timeout))
        return models

    def load(self, *, timeout: float | None = None) -> Load:
        """How busy it is. Raises TandemError."""
        load: Load = mirrored(self._call("GetLoad", completion_pb2.GetLoadRequest(), timeout))
        return load

    def tokenize(
        self,
        text: str | Sequence[AnyMessage],
        *,
        tools: Sequence[AnyTool] | None = None,
        template_arguments: JsonObject | None = None,
        timeout: float | None = None,
    ) -> Tokens:
        """Tokens of a text, or of a conversation as the model's template puts it. Raises TandemError."""
        request = tokenize_request(text, tools, template_arguments)
        tokens: Tokens = mirrored(self._call("Tokenize", request, timeout))
        return tokens

    def detokenize(
        self, token_ids: Sequence[int], *, skip_special_tokens: bool = False, timeout: float | None = None
    ) -> str:
        """Text of tokens; bytes that are no text appear as U+FFFD. Raises TandemError."""
        request = detokenize_request(token_ids, skip_special_tokens)
        text: str = self._call("Detokenize", request, timeout).text
        return text

    def close(self) -> None:
        """Ends the connections, and calls that are under way."""
        for channel in self._channels.values():
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, endpoint: str, request: completion_pb2.CompleteRequest, left: float | None) -> Any:
        return self._stubs[endpoint].Complete(request, timeout=left, metadata=self._metadata)

    def _call(self, method: str, request: Any, timeout: float | None) -> Any:
        self._check_process()
        deadline, route = self._deadline(timeout), Route(self._orchestrators)

        def attempt() -> Any:
            call = getattr(self._stubs[route.endpoint], method)
            try:
                return call(request, timeout=deadline.left(), metadata=self._metadata)
            except grpc.RpcError as error:
                raise route.failed(explained(error, route.endpoint)) from error

        return tenacity.Retrying(**settings(self._retries, deadline, route))(attempt)

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self._timeout if timeout is None else timeout)

    def _check_process(self) -> None:
        """A call would wait for ever otherwise."""
        if os.getpid() != self._process:
            raise RuntimeError("this client was made before the process was forked; make one in each process")
