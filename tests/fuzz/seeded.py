"""Random and disturbed messages from a seed: as `messages.py` draws them, but a thousand times as fast and repeatable.

A run of a hundred thousand messages is named by one number; hypothesis is better at making one failure small.
"""

from __future__ import annotations

import random
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.fuzz.messages import _BOUNDS, _FLOATS, _INTEGERS, _STRINGS

M = TypeVar("M", bound=Message)
Place = tuple[Message, FieldDescriptor]


def scalar(drawn: random.Random, field: FieldDescriptor) -> Any:
    """A value that the field can hold, mostly one at an edge."""
    if field.type in _BOUNDS:
        low, high = _BOUNDS[field.type]
        usual = drawn.choice((*_INTEGERS, -1, low, high))
        return usual if low <= usual <= high and drawn.random() < 0.8 else drawn.randint(low, high)
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        return drawn.choice(_FLOATS) if drawn.random() < 0.8 else drawn.uniform(-10, 10)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return drawn.random() < 0.5
    if field.type == FieldDescriptor.TYPE_ENUM:
        return drawn.randrange(11)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return drawn.randbytes(drawn.choice((0, 1, 2, 4, 8, 128)))
    return drawn.choice(_STRINGS)


def message(drawn: random.Random, kind: type[M]) -> M:
    """With some of its fields set, and fields of these."""
    made = kind()
    _fill(drawn, made)
    return made


def _fill(drawn: random.Random, made: Message, depth: int = 0) -> None:
    made.SetInParent()
    fields = list(made.DESCRIPTOR.fields)
    for field in drawn.sample(fields, min(len(fields), drawn.randrange(6))):
        if _is_map(field):
            _put(drawn, made, field)
        elif field.message_type is not None and field.is_repeated:
            for _ in range(drawn.randrange(3) if depth < 4 else 0):
                _fill(drawn, getattr(made, field.name).add(), depth + 1)
        elif field.message_type is not None:
            _fill(drawn, getattr(made, field.name), depth + 1)
        elif field.is_repeated:
            getattr(made, field.name).extend(scalar(drawn, field) for _ in range(drawn.randrange(5)))
        else:
            setattr(made, field.name, scalar(drawn, field))


def disturbed(drawn: random.Random, good: M) -> M:
    """A copy with one to three fields that are other than they were, wherever they lie."""
    made = type(good)()
    made.CopyFrom(good)
    for _ in range(drawn.choice((1, 1, 1, 2, 3))):
        holder, field = drawn.choice(_places(made))
        _disturb(drawn, holder, field)
    return made


def _places(made: Message) -> list[Place]:
    """Every field of a message and of those in it; what is set counts three times."""
    found: list[Place] = []
    for field in made.DESCRIPTOR.fields:
        found.append((made, field))
    for field, value in made.ListFields():
        found += [(made, field)] * 2
        if field.message_type is None or _is_map(field):
            continue
        for inner in list(value)[:4] if field.is_repeated else [value]:
            found += _places(inner)
    return found


def _disturb(drawn: random.Random, holder: Message, field: FieldDescriptor) -> None:
    if drawn.random() < 0.15:
        holder.ClearField(field.name)
    elif _is_map(field):
        _put(drawn, holder, field)
    elif field.message_type is not None and field.is_repeated:
        _disturb_list(drawn, getattr(holder, field.name), lambda values: _fill(drawn, values.add(), 3))
    elif field.message_type is not None:
        _fill(drawn, getattr(holder, field.name), 3)
    elif field.is_repeated:
        values = getattr(holder, field.name)
        if len(values) and drawn.random() < 0.5:
            values[drawn.randrange(len(values))] = scalar(drawn, field)
        else:
            _disturb_list(drawn, values, lambda values: values.append(scalar(drawn, field)))
    else:
        setattr(holder, field.name, scalar(drawn, field))


def _disturb_list(drawn: random.Random, values: Any, add: Any) -> None:
    """One more, one less, half of them, or all of them twice."""
    match drawn.randrange(5) if len(values) else 0:
        case 0:
            add(values)
        case 1:
            del values[drawn.randrange(len(values))]
        case 2:
            del values[len(values) // 2 :]
        case 3:
            values.extend(list(values))
        case _:
            for _ in range(drawn.choice((1, 70))):
                add(values)


def _put(drawn: random.Random, holder: Message, field: FieldDescriptor) -> None:
    key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
    getattr(holder, field.name)[scalar(drawn, key)] = scalar(drawn, value)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def torn(drawn: random.Random, data: bytes) -> bytes:
    """Bytes of which some are changed, left out, doubled or put in; or none of which are a message's."""
    if drawn.random() < 0.2:
        return drawn.randbytes(drawn.choice((1, 3, 20, 300)))
    found = bytearray(data)
    for _ in range(drawn.randint(1, 6)):
        at = drawn.randrange(len(found)) if found else 0
        match drawn.randrange(4):
            case 0 if found:
                found[at] = drawn.randrange(256)
            case 1:
                del found[at : at + drawn.randint(1, 4)]
            case 2:
                found[at:at] = found[at : at + 8]
            case _:
                found[at:at] = drawn.randbytes(drawn.randint(1, 8))
    return bytes(found)


def with_unknown(drawn: random.Random, data: bytes) -> bytes:
    """The same message with a field of a later contract: 1022, a number."""
    return data + b"\xf0\x3f" + bytes([drawn.randrange(128)])
