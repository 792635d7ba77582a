"""From a Chat message to the prompt that the model's template makes of it."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from tandem.rpc.errors import TandemError
from tandem.tokenization import TokenizationError, Tokenizer
from tandem.v1 import completion_pb2

_ROLES = ("system", "developer", "user", "assistant", "tool")
# Whose messages may have no text: an assistant may only call, a tool may have nothing to say.
_MAY_BE_SILENT = ("assistant", "tool")
# Variables of a template that are not the caller's to set.
_OWN_VARIABLES = ("messages", "tools")


def tokenize_chat(chat: completion_pb2.Chat, tokenizer: Tokenizer, path: str) -> list[int]:
    """Tokens up to where the model's answer begins. path: of `chat`. Raises TandemError INVALID_FIELD."""
    if not chat.messages:
        raise TandemError.invalid_field(f"{path}.messages", "is empty")
    messages = [_message(message, f"{path}.messages[{index}]") for index, message in enumerate(chat.messages)]
    tools = [_tool(tool, f"{path}.tools[{index}]") for index, tool in enumerate(chat.tools)]
    arguments = _object(chat.template_arguments_json, f"{path}.template_arguments_json")
    for name in _OWN_VARIABLES:
        if name in arguments:
            raise TandemError.invalid_field(f"{path}.template_arguments_json", f"must not set {name!r}")
    try:
        return tokenizer.apply_chat_template(messages, tools, arguments)
    except TokenizationError as error:
        raise TandemError.invalid_field(path, str(error)) from error


def _message(message: completion_pb2.ChatMessage, path: str) -> dict[str, Any]:
    """As templates expect it."""
    role = message.role
    if role not in _ROLES:
        raise TandemError.invalid_field(f"{path}.role", f"is {role!r}; must be one of {_ROLES}")
    if not message.content and role not in _MAY_BE_SILENT:
        raise TandemError.invalid_field(f"{path}.content", "is empty")
    if message.tool_calls and role != "assistant":
        raise TandemError.invalid_field(f"{path}.tool_calls", f"is for the assistant, not for {role!r}")
    if message.tool_call_id and role != "tool":
        raise TandemError.invalid_field(f"{path}.tool_call_id", f"is for a tool, not for {role!r}")
    found: dict[str, Any] = {"role": role, "content": message.content}
    if message.tool_calls:
        found["tool_calls"] = [
            _call(call, f"{path}.tool_calls[{index}]") for index, call in enumerate(message.tool_calls)
        ]
    if message.tool_call_id:
        found["tool_call_id"] = message.tool_call_id
    if message.name:
        found["name"] = message.name
    return found


def _call(call: completion_pb2.ChatToolCall, path: str) -> dict[str, Any]:
    if not call.name:
        raise TandemError.invalid_field(f"{path}.name", "is empty")
    arguments = _object(call.arguments_json, f"{path}.arguments_json")
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _tool(tool: completion_pb2.ChatTool, path: str) -> dict[str, Any]:
    if not tool.name:
        raise TandemError.invalid_field(f"{path}.name", "is empty")
    parameters = _object(tool.parameters_json, f"{path}.parameters_json")
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _object(text: str, path: str) -> dict[str, Any]:
    """A JSON object; an empty one of no text."""
    if not text:
        return {}
    try:
        # Not Python's own reader: this one refuses NaN, lone surrogates and more than 200 levels.
        value = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise TandemError.invalid_field(path, f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise TandemError.invalid_field(path, "must be a JSON object")
    return value
