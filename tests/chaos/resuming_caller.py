"""The Python client that knows of several orchestrators."""

from __future__ import annotations

from typing import Any

from tandem.client.asynchronous import AsyncClient
from tandem.rpc.errors import TandemError
from tandem.v1 import completion_pb2
from tests.chaos.callers import note
from tests.chaos.outcomes import Failure, Outcome


class ResumingCaller:
    """The Python client, told of all orchestrators: it goes on at another with the tokens that it has."""

    name = "resuming"
    orchestrator = ""

    def __init__(self, endpoints: list[str]) -> None:
        self._client = AsyncClient(endpoints)

    async def fill(self, outcome: Outcome) -> None:
        prompt, options = client_call(outcome.work.named(outcome.name))
        stream = self._client.stream(prompt, timeout=outcome.seconds, resume=True, **options)
        try:
            async for delta in stream:
                note(outcome, delta)
                if outcome.wants_to_leave:
                    outcome.has_left = True
                    return
        except TandemError as error:
            outcome.failure = Failure.of(error)
        finally:
            await stream.close()

    async def close(self) -> None:
        await self._client.close()


def can_resume(request: completion_pb2.CompleteRequest) -> bool:
    return (request.n or 1) == 1


def client_call(request: completion_pb2.CompleteRequest) -> tuple[str | list[int], dict[str, Any]]:
    """The prompt and the options that say the same by the Python client."""
    prompt = request.text if request.WhichOneof("prompt") == "text" else list(request.tokens.ids)
    options = {field.name: value for field, value in request.ListFields()}
    for name in ("text", "tokens", "sampling", "grammar"):
        options.pop(name, None)
    options |= {field.name: value for field, value in request.sampling.ListFields()}
    if request.HasField("grammar"):
        options["regex"] = request.grammar.regex
    return prompt, options
