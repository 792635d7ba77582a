"""What a message holds beyond this version of the contract: refused, never ignored."""

from __future__ import annotations

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from tandem.rpc.errors import TandemError


def check_known(message: Message, *, path: str = "") -> None:
    """Raises TandemError NOT_SUPPORTED for the first field in `message` or below it that this service does not know.

    A newer caller that asks for what is not there would otherwise be given something else. path: put before names.
    """
    unknown = UnknownFieldSet(message)
    if len(unknown):
        kind, number = message.DESCRIPTOR.name, unknown[0].field_number
        field = path.removesuffix(".") or kind
        raise TandemError.not_supported(field, f"this service knows no field {number} of {kind}")
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None or descriptor.message_type.GetOptions().map_entry:
            continue
        name = f"{path}{descriptor.name}"
        if not descriptor.is_repeated:
            check_known(value, path=f"{name}.")
            continue
        for index, entry in enumerate(value):
            check_known(entry, path=f"{name}[{index}].")
