"""`tandem.Client`: blocking calls of one orchestrator."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
import tenacity

from tandem.client.answers import Completion
from tandem.client.errors import explained
from tandem.client.mirror import mirrored
from tandem.client.options import Options
from tandem.client.prompts import AnyMessage, AnyTool, JsonObject, Prompt
from tandem.client.requests import complete_request, detokenize_request, tokenize_request
from tandem.client.retries import Deadline, Retries, settings
from tandem.client.services import Load, Models, Tokens
from tandem.client.stream import Stream
from tandem.rpc.channels import CLIENT_OPTIONS, check_endpoint
from tandem.v1 import completion_pb2, completion_pb2_grpc


class Client:
    """Calls one orchestrator.

        with Client("127.0.0.1:7000") as client:
            print(client.complete("Once upon a time", max_tokens=64).text)
            for delta in client.stream([{"role": "user", "content": "Hello!"}], speculation="lossless"):
                print(delta.text, end="", flush=True)

    endpoint: HOST:PORT. timeout: seconds within which a call has to be done, where it names none itself; None for no
    limit. retries: of calls that failed before they gave anything and may succeed when made again.

    Connects at the first call. Threads may share it: it is one connection with as many calls at once as there are. A
    process that was forked may not: gRPC's threads are not in it; make a client in each. Calls raise TandemError,
    mostly one of BadInputError, BusyError, UnavailableError and DeadlineError.
    """

    def __init__(self, endpoint: str, *, timeout: float | None = None, retries: Retries | None = None) -> None:
        """Raises ValueError where `endpoint` is not HOST:PORT."""
        self.endpoint = check_endpoint(endpoint)
        self._timeout = timeout
        self._retries = retries or Retries()
        self._process = os.getpid()
        self._channel = grpc.insecure_channel(endpoint, options=CLIENT_OPTIONS)
        self._stub = completion_pb2_grpc.CompletionServiceStub(self._channel)

    def complete(self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[Options]) -> Completion:
        """A whole completion. Raises TandemError."""
        with self.stream(prompt, timeout=timeout, **options) as stream:
            return stream.result()

    def stream(self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[Options]) -> Stream:
        """A completion as it comes. Raises TandemError, here for what no request can hold, else where it is read."""
        request = complete_request(prompt, options)
        self._check_process()
        return Stream(
            lambda left: self._stub.Complete(request, timeout=left),
            endpoint=self.endpoint,
            deadline=self._deadline(timeout),
            retries=self._retries,
        )

    def models(self, *, timeout: float | None = None) -> Models:
        """What is served. Raises TandemError."""
        models: Models = mirrored(self._call(self._stub.GetModels, completion_pb2.GetModelsRequest(), timeout))
        return models

    def load(self, *, timeout: float | None = None) -> Load:
        """How busy it is. Raises TandemError."""
        load: Load = mirrored(self._call(self._stub.GetLoad, completion_pb2.GetLoadRequest(), timeout))
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
        tokens: Tokens = mirrored(self._call(self._stub.Tokenize, request, timeout))
        return tokens

    def detokenize(
        self, token_ids: Sequence[int], *, skip_special_tokens: bool = False, timeout: float | None = None
    ) -> str:
        """Text of tokens; bytes that are no text appear as U+FFFD. Raises TandemError."""
        request = detokenize_request(token_ids, skip_special_tokens)
        text: str = self._call(self._stub.Detokenize, request, timeout).text
        return text

    def close(self) -> None:
        """Ends the connection, and calls that are under way."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: Callable[..., Any], request: Any, timeout: float | None) -> Any:
        self._check_process()
        deadline = self._deadline(timeout)

        def attempt() -> Any:
            try:
                return method(request, timeout=deadline.left())
            except grpc.RpcError as error:
                raise explained(error, self.endpoint) from error

        return tenacity.Retrying(**settings(self._retries, deadline))(attempt)

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self._timeout if timeout is None else timeout)

    def _check_process(self) -> None:
        """A call would wait for ever otherwise."""
        if os.getpid() != self._process:
            raise RuntimeError("this client was made before the process was forked; make one in each process")
