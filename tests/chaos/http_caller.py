"""A caller by HTTP, as OpenAI's clients are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx2
from google.protobuf.json_format import MessageToDict

from tandem.rpc.errors import CODES
from tandem.v1 import completion_pb2
from tests.chaos.outcomes import TRANSPORT, Failure, Outcome

_STATUSES = {429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED", 500: "INTERNAL"}
# After the deadline that the orchestrator was told: it has to say itself that the time is over.
_PATIENCE_SECONDS = 0.5


class HttpCaller:
    """Server-sent events of /v1/completions, with the tokens beside the text."""

    name = "http"

    def __init__(self, orchestrator: str, endpoint: str, model: str) -> None:
        self.orchestrator = orchestrator
        self._model = model
        self._client = httpx2.AsyncClient(base_url=f"http://{endpoint}", timeout=None, trust_env=False)

    async def fill(self, outcome: Outcome) -> None:
        body = http_body(outcome.work.named(outcome.name), self._model)
        try:
            async with asyncio.timeout(outcome.seconds + _PATIENCE_SECONDS):
                async with aclosing(self._events(body, outcome)) as events:
                    async for event in events:
                        for choice in event["choices"]:
                            self._note(outcome, choice)
                        if outcome.wants_to_leave:
                            outcome.has_left = True
                            return
        except TimeoutError:
            outcome.failure = Failure("DEADLINE_EXCEEDED", TRANSPORT, "the caller has waited as long as it would")
        except httpx2.TransportError as error:
            outcome.failure = Failure("UNAVAILABLE", TRANSPORT, f"{type(error).__name__}: {error}")

    async def _events(self, body: dict[str, Any], outcome: Outcome) -> AsyncGenerator[dict[str, Any]]:
        headers = {"x-request-timeout": f"{outcome.seconds:.3f}"}
        async with self._client.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
            if answer.status_code != 200:
                text = (await answer.aread()).decode(errors="replace")
                outcome.failure = _http_failure(answer.status_code, text, answer.headers.get("retry-after"))
                return
            async for line in answer.aiter_lines():
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    return
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    outcome.failure = _told(event["error"])
                    return
                yield event
            outcome.failure = Failure("UNAVAILABLE", TRANSPORT, "the answer has no end")

    def _note(self, outcome: Outcome, choice: dict[str, Any]) -> None:
        found = outcome.received(choice["index"], choice.get("token_ids") or [], choice.get("text") or "")
        if choice.get("finish_reason"):
            found.counted = len(found.tokens)

    async def close(self) -> None:
        await self._client.aclose()


def can_http(request: completion_pb2.CompleteRequest) -> bool:
    """What `http_body` can say."""
    return not request.HasField("grammar") and not request.HasField("log_probabilities")


def http_body(request: completion_pb2.CompleteRequest, model: str) -> dict[str, Any]:
    prompt: Any = request.text if request.WhichOneof("prompt") == "text" else list(request.tokens.ids)
    return {
        "model": model,
        "prompt": prompt,
        "stream": True,
        "max_tokens": request.max_tokens,
        "ignore_eos": request.ignore_end_tokens,
        "n": request.n or 1,
        "return_token_ids": True,
        "request_id": request.request_id,
        "speculation": MessageToDict(request.speculation, preserving_proto_field_name=True),
        **{name.name: value for name, value in request.sampling.ListFields()},
    }


def _http_failure(status: int, text: str, retry_after: str | None) -> Failure:
    try:
        told = json.loads(text)["error"]
        message, reason = told["message"], str(told["code"]).upper()
    except (ValueError, KeyError, TypeError):
        message, reason = text[:200], TRANSPORT
    code = _STATUSES.get(status, f"HTTP {status}")
    return Failure(code, reason, message, float(retry_after) if retry_after else None)


def _told(error: dict[str, Any]) -> Failure:
    """In the middle of a stream there are no headers to say when to come back."""
    reason = str(error.get("code")).upper()
    code = CODES[reason].name if reason in CODES else reason
    return Failure(code, reason, str(error.get("message")), 1.0)
