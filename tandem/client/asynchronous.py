"""`tandem.AsyncClient`: calls of an orchestrator, or of several, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
import tenacity

from tandem.client.answers import Completion
from tandem.client.async_stream import AsyncStream
from tandem.client.course import Course
from tandem.client.errors import explained
from tandem.client.mirror import mirrored
from tandem.client.options import Options
from tandem.client.orchestrators import Orchestrators, Route
from tandem.client.prompts import AnyMessage, AnyTool, JsonObject, Prompt
from tandem.client.requests import complete_request, detokenize_request, tokenize_request
from tandem.client.retries import Deadline, Retries, settings
from tandem.client.services import Load, Models, Tokens
from tandem.rpc.bearer import bearer
from tandem.rpc.channels import open_channel
from tandem.rpc.credentials import channel_credentials
from tandem.rpc.tls import ClientTls
from tandem.v1 import completion_pb2, completion_pb2_grpc


class AsyncClient:
    """Calls an orchestrator, or several; as Client, for asyncio.

        async with AsyncClient("127.0.0.1:7000") as client:
            completion = await client.complete("Once upon a time", max_tokens=64)
            async for delta in client.stream([{"role": "user", "content": "Hello!"}]):
                print(delta.text, end="", flush=True)

    Belongs to the event loop in which it is first used: other threads need one of their own, and so do forked
    processes. Within the loop any number of tasks may share it. Cancelling a task cancels its call.
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
        self._credentials = None if tls is None else channel_credentials(tls)
        self._metadata = bearer(api_key)
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def endpoint(self) -> str:
        """Where calls go now."""
        return self._orchestrators.current

    async def complete(
        self, prompt: Prompt, *, timeout: float | None = None, resume: bool = False, **options: Unpack[Options]
    ) -> Completion:
        """A whole completion. resume: as of `stream`. Raises TandemError."""
        async with self.stream(prompt, timeout=timeout, resume=resume, **options) as stream:
            return await stream.result()

    def stream(
        self, prompt: Prompt, *, timeout: float | None = None, resume: bool = False, **options: Unpack[Options]
    ) -> AsyncStream:
        """A completion as it comes; to be called in the event loop. resume: as of `Client.stream`. Raises TandemError,
        here for what no request can hold, else where it is read."""
        request, deadline = complete_request(prompt, options), self._deadline(timeout)
        return AsyncStream(self._begin, Course(request, self._orchestrators, deadline, self._retries, resumes=resume))

    async def models(self, *, timeout: float | None = None) -> Models:
        """What is served. Raises TandemError."""
        models: Models = mirrored(await self._call("GetModels", completion_pb2.GetModelsRequest(), timeout))
        return models

    async def load(self, *, timeout: float | None = None) -> Load:
        """How busy it is. Raises TandemError."""
        load: Load = mirrored(await self._call("GetLoad", completion_pb2.GetLoadRequest(), timeout))
        return load

    async def tokenize(
        self,
        text: str | Sequence[AnyMessage],
        *,
        tools: Sequence[AnyTool] | None = None,
        template_arguments: JsonObject | None = None,
        timeout: float | None = None,
    ) -> Tokens:
        """Tokens of a text, or of a conversation as the model's template puts it. Raises TandemError."""
        request = tokenize_request(text, tools, template_arguments)
        tokens: Tokens = mirrored(await self._call("Tokenize", request, timeout))
        return tokens

    async def detokenize(
        self, token_ids: Sequence[int], *, skip_special_tokens: bool = False, timeout: float | None = None
    ) -> str:
        """Text of tokens; bytes that are no text appear as U+FFFD. Raises TandemError."""
        request = detokenize_request(token_ids, skip_special_tokens)
        text: str = (await self._call("Detokenize", request, timeout)).text
        return text

    async def close(self) -> None:
        """Ends the connections, and calls that are under way."""
        for channel in self._channels.values():
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _begin(self, endpoint: str, request: completion_pb2.CompleteRequest, left: float | None) -> Any:
        return self._stub(endpoint).Complete(request, timeout=left, metadata=self._metadata)

    async def _call(self, method: str, request: Any, timeout: float | None) -> Any:
        deadline, route = self._deadline(timeout), Route(self._orchestrators)

        async def attempt() -> Any:
            call = getattr(self._stub(route.endpoint), method)
            try:
                return await call(request, timeout=deadline.left(), metadata=self._metadata)
            except grpc.RpcError as error:
                raise route.failed(explained(error, route.endpoint)) from error

        return await tenacity.AsyncRetrying(**settings(self._retries, deadline, route))(attempt)

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self._timeout if timeout is None else timeout)

    def _stub(self, endpoint: str) -> Any:
        """A channel belongs to the loop that runs when it is made, so it is made by the first call."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif loop is not self._loop:
            raise RuntimeError("this client belongs to another event loop; make one in each")
        if endpoint not in self._channels:
            self._channels[endpoint] = open_channel(endpoint, self._credentials)
        return completion_pb2_grpc.CompletionServiceStub(self._channels[endpoint])
