"""/v1/completions: its parameters as CompleteRequests, one for each prompt, and its choices as JSON."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from orchestrator.gateway.errors import HttpError
from orchestrator.gateway.logprobs import text_logprobs
from orchestrator.gateway.parameters import Int32, Parameters, Texts, TokenIds
from orchestrator.keys import CALLER
from tandem.v1 import completion_pb2

#: OpenAI's default, which is short.
DEFAULT_MAX_TOKENS = 16
#: Most choices of one request: prompts times n.
MOST_CHOICES = 128


def _kind(value: Any) -> str:
    if not isinstance(value, list):
        return "text"
    if value and isinstance(value[0], list):
        return "lists"
    return "texts" if value and isinstance(value[0], str) else "tokens"


Prompt = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[Texts, Tag("texts")]
    | Annotated[TokenIds, Tag("tokens")]
    | Annotated[Annotated[list[TokenIds], Field(fail_fast=True)], Tag("lists")],
    Discriminator(_kind),
]


class TextChoice:
    """One choice of an answer."""

    def __init__(self) -> None:
        self._offset = 0

    def opening(self) -> dict[str, Any] | None:
        return None

    def delta(self, response: completion_pb2.CompleteResponse) -> dict[str, Any]:
        found = text_logprobs(response, self._offset)
        self._offset += sum(len(account.text) for account in response.tokens)
        return {"text": response.text, "logprobs": found}

    def whole(self, response: completion_pb2.CompleteResponse) -> dict[str, Any]:
        return self.delta(response)


class TextParameters(Parameters):
    """POST /v1/completions."""

    prompt: Prompt
    echo: bool | None = None
    logprobs: Int32 | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None

    id_prefix = "cmpl-"
    whole_object = "text_completion"
    chunk_object = "text_completion"
    choice = TextChoice

    def fill(self, request: completion_pb2.CompleteRequest) -> list[completion_pb2.CompleteRequest]:
        if self.max_tokens is None:
            default = min(DEFAULT_MAX_TOKENS, CALLER.get().limits.max_tokens or DEFAULT_MAX_TOKENS)
            request.max_tokens = max(default, request.min_tokens)
        if self.logprobs is not None:
            if self.echo:
                raise HttpError.unsupported("logprobs", "does not go with echo: the prompt's are not computed")
            request.log_probabilities = self.logprobs
            request.audit = True  # tells where in the text each token begins
        request.echo = bool(self.echo)
        prompts = self._prompts()
        if len(prompts) * (self.n or 1) > MOST_CHOICES:
            raise HttpError.invalid("prompt", f"has {len(prompts)} prompts; with n, at most {MOST_CHOICES} choices")
        found = []
        for prompt in prompts:
            one = completion_pb2.CompleteRequest()
            one.CopyFrom(request)
            if isinstance(prompt, str):
                one.text = prompt
            else:
                one.tokens.SetInParent()
                one.tokens.ids.extend(prompt)
            found.append(one)
        return found

    def _prompts(self) -> list[Any]:
        """Each a text or tokens."""
        return self.prompt if _kind(self.prompt) in ("texts", "lists") else [self.prompt]  # type: ignore[return-value]

    def name_of(self, field: str) -> str:
        if field == "log_probabilities":
            return "logprobs"
        return re.sub(r"^(text|tokens\.ids|tokens)(?=$|\[)", "prompt", field)
