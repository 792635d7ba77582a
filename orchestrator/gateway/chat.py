"""/v1/chat/completions: its parameters as a CompleteRequest, its choices as JSON."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrator.gateway.errors import HttpError
from orchestrator.gateway.logprobs import chat_logprobs
from orchestrator.gateway.parameters import Int32, Parameters, Strict
from orchestrator.gateway.sampling import to_json_text
from tandem.v1 import completion_pb2


class TextPart(Strict):
    """A part of a message; those of one message are put on lines of their own."""

    type: Literal["text"]
    text: str


class CalledFunction(Strict):
    """arguments: a JSON object as text."""

    name: str
    arguments: str


class ToolCall(Strict):
    """A call that the assistant made."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class Message(Strict):
    """A message, as each role may have it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True)] | None = None
    tool_call_id: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None


class Function(Strict):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Literal[False] | None = None


class Tool(Strict):
    """The model's template is told of it; a call is text, in the form that the model was trained for."""

    type: Literal["function"]
    function: Function


class ChatChoice:
    """One choice of an answer."""

    def opening(self) -> dict[str, Any] | None:
        return {"delta": {"role": "assistant", "content": ""}, "logprobs": None}

    def delta(self, response: completion_pb2.CompleteResponse) -> dict[str, Any]:
        return {"delta": {"content": response.text} if response.text else {}, "logprobs": chat_logprobs(response)}

    def whole(self, response: completion_pb2.CompleteResponse) -> dict[str, Any]:
        message = {"role": "assistant", "content": response.text, "refusal": None}
        return {"message": message, "logprobs": chat_logprobs(response)}


class ChatParameters(Parameters):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(fail_fast=True)]
    max_completion_tokens: Int32 | None = Field(None, description="As max_tokens; 1024 if neither is set.")
    logprobs: bool | None = None
    top_logprobs: Int32 | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto"] | None = Field(None, description="none: the template is told of no tools.")
    parallel_tool_calls: bool | None = Field(None, description="Taken; a call is text here.")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="More variables of the template.")
    modalities: list[Literal["text"]] | None = None

    id_prefix = "chatcmpl-"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    choice = ChatChoice

    def fill(self, request: completion_pb2.CompleteRequest) -> list[completion_pb2.CompleteRequest]:
        if self.max_completion_tokens is not None:
            if self.max_tokens is not None:
                raise HttpError.invalid("max_tokens", "says the same as max_completion_tokens; set one")
            request.max_tokens = self.max_completion_tokens
        if self.top_logprobs is not None and not self.logprobs:
            raise HttpError.invalid("top_logprobs", "needs logprobs: true")
        if self.logprobs:
            request.log_probabilities = self.top_logprobs or 0
        for message in self.messages:
            request.chat.messages.append(_message(message))
        request.chat.SetInParent()
        self._add_tools(request.chat)
        if self.chat_template_kwargs:
            request.chat.template_arguments_json = to_json_text(self.chat_template_kwargs, "chat_template_kwargs")
        return [request]

    def _add_tools(self, chat: completion_pb2.Chat) -> None:
        if self.tool_choice == "auto" and not self.tools:
            raise HttpError.invalid("tool_choice", "is for requests with tools")
        if self.tool_choice == "none":
            return
        for index, tool in enumerate(self.tools or ()):
            function = tool.function
            parameters = to_json_text(function.parameters, f"tools[{index}].function.parameters")
            chat.tools.add(
                name=function.name, description=function.description, parameters_json=parameters
            )

    def name_of(self, field: str) -> str:
        if field == "max_tokens" and self.max_completion_tokens is not None:
            return "max_completion_tokens"
        if field == "log_probabilities":
            return "top_logprobs"
        if field == "chat":
            return "messages"
        if field == "chat.template_arguments_json":
            return "chat_template_kwargs"
        name = field.removeprefix("chat.")
        name = re.sub(r"\.(arguments|parameters)_json$", r".function.\1", name)
        return re.sub(r"((?:^|\.)tool(?:s|_calls)\[\d+\])\.(name|description)$", r"\1.function.\2", name)


def _message(message: Message) -> completion_pb2.ChatMessage:
    content = message.content
    if isinstance(content, list):
        content = "\n".join(part.text for part in content)
    found = completion_pb2.ChatMessage(
        role=message.role,
        content=content or "",
        tool_call_id=message.tool_call_id or "",
        name=message.name or "",
    )
    for call in message.tool_calls or ():
        found.tool_calls.add(id=call.id, name=call.function.name, arguments_json=call.function.arguments)
    return found
