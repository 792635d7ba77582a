"""Prompts as callers write them: text, tokens or a conversation."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tandem.client.errors import BadInputError
from tandem.v1 import completion_pb2

JsonObject: TypeAlias = Mapping[str, Any] | str
"""A JSON object, or the text of one."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. parameters: JSON schema of an object."""

    name: str
    description: str = ""
    parameters: JsonObject = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the assistant made. id: what the tool's message refers to."""

    name: str
    arguments: JsonObject = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    role: system, developer, user, assistant or tool, as the model's template knows them. tool_call_id: the call that a
    message of a tool answers. name: of the speaker, or of the tool.
    """

    role: str
    content: str = ""
    tool_calls: Sequence[ToolCall | Mapping[str, Any]] = field(default=())
    tool_call_id: str = ""
    name: str = ""


AnyMessage: TypeAlias = Message | Mapping[str, Any]
AnyTool: TypeAlias = Tool | Mapping[str, Any]
Prompt: TypeAlias = str | Sequence[int] | Sequence[AnyMessage]
"""Text as it is, token ids, or messages for the model's chat template; mappings as OpenAI has them will do."""


def chat(
    messages: Sequence[AnyMessage], tools: Sequence[AnyTool] | None, template_arguments: JsonObject | None
) -> completion_pb2.Chat:
    """Raises BadInputError."""
    made = completion_pb2.Chat(
        messages=[_message(message, f"chat.messages[{index}]") for index, message in enumerate(messages)],
        tools=[_tool(tool, f"chat.tools[{index}]") for index, tool in enumerate(tools or ())],
    )
    if template_arguments is not None:
        made.template_arguments_json = json_text(template_arguments, "chat.template_arguments_json")
    return made


def token_ids(prompt: Sequence[Any]) -> list[int] | None:
    """The tokens of a prompt that is some; None of one that is not."""
    try:
        return [operator.index(token) for token in prompt]
    except TypeError:
        return None


def json_text(value: Any, path: str) -> str:
    """Raises BadInputError for what JSON cannot say."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInputError.invalid_field(path, f"is not JSON: {error}") from error


def _message(message: AnyMessage, path: str) -> completion_pb2.ChatMessage:
    fields = _fields(message, Message, path)
    calls = [_call(call, f"{path}.tool_calls[{index}]") for index, call in enumerate(fields.pop("tool_calls", ()))]
    return _made(completion_pb2.ChatMessage, path, **fields, tool_calls=calls)


def _call(call: ToolCall | Mapping[str, Any], path: str) -> completion_pb2.ChatToolCall:
    fields = _fields(_function(call, path), ToolCall, path)
    arguments = json_text(fields.pop("arguments", ""), f"{path}.arguments_json")
    return _made(completion_pb2.ChatToolCall, path, **fields, arguments_json=arguments)


def _tool(tool: AnyTool, path: str) -> completion_pb2.ChatTool:
    fields = _fields(_function(tool, path), Tool, path)
    parameters = json_text(fields.pop("parameters", ""), f"{path}.parameters_json")
    return _made(completion_pb2.ChatTool, path, **fields, parameters_json=parameters)


def _function(value: Any, path: str) -> Any:
    """OpenAI's form has the function one level down: {"type": "function", "function": {...}}."""
    if not isinstance(value, Mapping) or "function" not in value:
        return value
    rest = {name: entry for name, entry in value.items() if name not in ("type", "function")}
    if value.get("type", "function") != "function":
        raise BadInputError.not_supported(f"{path}.type", f"is {value['type']!r}; only functions can be called")
    if not isinstance(value["function"], Mapping):
        raise BadInputError.invalid_field(f"{path}.function", "must be a mapping")
    return {**rest, **value["function"]}


def _fields(value: Any, kind: type[Message] | type[Tool] | type[ToolCall], path: str) -> dict[str, Any]:
    """What is set in a dataclass or a mapping, by name."""
    names = kind.__dataclass_fields__
    if isinstance(value, kind):
        return {name: getattr(value, name) for name in names}
    if not isinstance(value, Mapping):
        raise BadInputError.invalid_field(path, f"must be a {kind.__name__} or a mapping, not {type(value).__name__}")
    found = {name: entry for name, entry in value.items() if entry is not None}
    for name in found:
        if name not in names:
            raise BadInputError.not_supported(f"{path}.{name}", f"there is no such field; there are {', '.join(names)}")
    return found


def _made(message: type[Any], path: str, **fields: Any) -> Any:
    for name, value in fields.items():
        try:
            message(**{name: value})
        except (TypeError, ValueError) as error:
            raise BadInputError.invalid_field(f"{path}.{name}", f"cannot be {value!r}: {error}") from error
    return message(**fields)
