"""Answers as frozen dataclasses: each mirrors one message of the contract, field by field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

T = TypeVar("T")

#: The dataclass of each mirrored message, by the message's full name.
MIRRORS: dict[str, type] = {}


def mirrors(message: type[Message]) -> Callable[[type[T]], type[T]]:
    """Marks a dataclass whose fields are those of `message`, by name.

    Enums are their names in lower case without the prefix (`stop`), repeated fields tuples, maps dicts, messages the
    dataclasses that mirror them; an optional field or a message that is unset is None.
    """

    def note(kind: type[T]) -> type[T]:
        MIRRORS[message.DESCRIPTOR.full_name] = kind
        return kind

    return note


def mirrored(message: Message) -> Any:
    """The dataclass of a message."""
    fields: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            fields[field.name] = None
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            fields[field.name] = dict(value)
        elif field.is_repeated:
            fields[field.name] = tuple(_plain(field, item) for item in value)
        else:
            fields[field.name] = _plain(field, value)
    return MIRRORS[message.DESCRIPTOR.full_name](**fields)


def _plain(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return mirrored(value)
    if field.enum_type is not None:
        return _name(field.enum_type, value)
    return value


def _name(enum: Any, number: int) -> str:
    """`FINISH_REASON_STOP` as `stop`; a value of a newer contract as its number."""
    names = enum.values_by_number
    prefix = names[0].name.removesuffix("UNSPECIFIED")
    return names[number].name.removeprefix(prefix).lower() if number in names else str(number)
