"""Random messages of any type: edge values, empty and crowded fields, and bytes that are no message at all."""

from __future__ import annotations

import math
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

_INTEGERS = [0, 1, 2, 3, 5, 19, 20, 21, 63, 64, 65, 127, 128, 255, 256, 257, 1000, 2**15, 2**16, 2**31 - 1]
_FLOATS = [0.0, -0.0, 0.1, 0.5, 1.0, 2.0, -1.0, 1e-9, 1e-300, 1e30, 1e31, 1e308, math.nan, math.inf, -math.inf]
_STRINGS = [
    "", "a", "user", "assistant", "tool", "{}", "[]", "null", '{"type": "object"}', "a" * 300, "\0", "é\U0001f600",
    "start: /a/",
]  # fmt: skip
_BOUNDS = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
}


def _scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type in _BOUNDS:
        low, high = _BOUNDS[field.type]
        usual = [number for number in (*_INTEGERS, -1, low, high) if low <= number <= high]
        return st.one_of(st.sampled_from(usual), st.integers(low, high))
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        width = 32 if field.type == FieldDescriptor.TYPE_FLOAT else 64
        return st.one_of(st.sampled_from(_FLOATS), st.floats(width=width)).map(float)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_ENUM:
        return st.integers(0, 10)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=50)
    return st.one_of(st.sampled_from(_STRINGS), st.text(max_size=30))


@st.composite
def messages(draw: st.DrawFn, kind: type[Message]) -> Message:
    """A message with some of its fields set, and fields of these."""
    message = kind()
    _fill(draw, message)
    return message


def _fill(draw: st.DrawFn, message: Message) -> None:
    fields = list(message.DESCRIPTOR.fields)
    if not fields:
        message.SetInParent()
        return
    for field in draw(st.lists(st.sampled_from(fields), max_size=5, unique_by=lambda field: field.number)):
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            key, value = inner.fields_by_name["key"], inner.fields_by_name["value"]
            for _ in range(draw(st.integers(0, 3))):
                getattr(message, field.name)[draw(_scalars(key))] = draw(_scalars(value))
        elif inner is not None and field.is_repeated:
            for _ in range(draw(st.integers(0, 3))):
                _fill(draw, getattr(message, field.name).add())
        elif inner is not None:
            getattr(message, field.name).SetInParent()
            _fill(draw, getattr(message, field.name))
        elif field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(_scalars(field), max_size=5)))
        else:
            setattr(message, field.name, draw(_scalars(field)))


@st.composite
def mutated(draw: st.DrawFn, kind: type[Message]) -> bytes:
    """Bytes of a message with some of them changed, left out, doubled or put in."""
    data = bytearray(draw(messages(kind)).SerializeToString())
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["change", "cut", "double", "insert"])):
            case "change" if data:
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at : at + draw(st.integers(1, 4))]
            case "double":
                data[at:at] = data[at : at + 8]
            case _:
                data[at:at] = draw(st.binary(min_size=1, max_size=8))
    return bytes(data)
