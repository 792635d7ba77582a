"""JSON to and from messages of protobuf, by protobuf's own mapping."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from orchestrator.gateway.errors import HttpError

MessageT = TypeVar("MessageT", bound=Message)

# What the library raises for values that it did not think of, besides its own error.
_REFUSALS = (json_format.ParseError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

# Characters of a name that is quoted; what a caller sends may be of any length.
_LONGEST_NAME = 64


def to_message(value: dict[str, Any], kind: type[MessageT], path: str = "") -> MessageT:
    """The message that `value` stands for. path: of the value. Raises HttpError that names the field."""
    message = kind()
    try:
        json_format.ParseDict(value, message)
    except _REFUSALS as error:
        below, cause = _fault(value, message.DESCRIPTOR, error)
        raise HttpError.invalid(".".join(filter(None, (path, below))) or None, _plain(cause)) from error
    return message


def to_object(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _fault(value: Any, kind: Any, error: Exception) -> tuple[str, Exception]:
    """Path and error of the smallest part of `value` that is refused by itself: the library tells it of some only.

    kind: descriptor of the message that it stands for.
    """
    for name, part in value.items() if isinstance(value, dict) else ():
        if (cause := _refusal({name: part}, kind)) is None:
            continue
        field = next((field for field in kind.fields if name in (field.name, field.json_name)), None)
        if field is None or field.message_type is None or field.message_type.GetOptions().map_entry:
            return name[:_LONGEST_NAME], cause
        if not field.is_repeated:
            below, cause = _fault(part, field.message_type, cause)
            return ".".join(filter(None, (name, below))), cause
        for index, entry in enumerate(part if isinstance(part, list) else ()):
            if entry is not None and (reason := _refusal(entry, field.message_type)) is not None:
                below, cause = _fault(entry, field.message_type, reason)
                return ".".join(filter(None, (f"{name}[{index}]", below))), cause
        return name, cause
    return "", error  # of no part by itself, as two of a oneof


def _refusal(value: Any, kind: Any) -> Exception | None:
    try:
        json_format.ParseDict(value, GetMessageClass(kind)())
    except _REFUSALS as error:
        return error
    return None


def _plain(error: Exception) -> str:
    """What the library says, without where it says that it is."""
    told = str(error).split("\n", 1)[0]
    told = re.sub(r"^(Failed to parse \w+ field: )+|\.+$", "", told)
    return re.sub(r' at "?[A-Z]\w*[\w.\[\]]*"?$', "", told)[:300]
