"""A body as the parameters of an endpoint; what does not fit is told by its name, as far down as it lies."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.gateway.errors import HttpError

ModelT = TypeVar("ModelT", bound=BaseModel)

# Characters of a name that is quoted; what a caller sends may be of any length.
_LONGEST_NAME = 64
# Of which the first are looked at: a body may have as many mistakes as it has bytes.
_MOST_ERRORS = 64


def parse(kind: type[ModelT], value: dict[str, Any]) -> ModelT:
    """Raises HttpError for the first parameter that is unknown or has a value that it may not have."""
    given = {name: part for name, part in value.items() if part is not None}
    known = {field.alias or name for name, field in kind.model_fields.items()}
    for name in given:
        if name not in known:
            raise HttpError.unsupported(name[:_LONGEST_NAME], "this server has no such parameter")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)[:_MOST_ERRORS]
        # Of a union, the alternative that went furthest is the one that was meant.
        places = [_place(detail, given) for detail in details]
        deepest = max(range(len(places)), key=lambda index: (len(places[index]), -index))
        raise _refusal(details[deepest], places[deepest]) from error


def _place(detail: ErrorDetails, value: Any) -> list[str | int]:
    """Names and indices in the body: pydantic's location, without the names of the alternatives that it tried."""
    place: list[str | int] = []
    for step in detail["loc"]:
        if isinstance(value, list) and isinstance(step, int):
            place.append(step)
            value = value[step]
        elif isinstance(value, dict) and step in value:
            place.append(step)
            value = value[step]
    if detail["type"] == "missing":
        place.append(detail["loc"][-1])
    return place


def _refusal(detail: ErrorDetails, place: list[str | int]) -> HttpError:
    param = ""
    for step in place:
        param += f"[{step}]" if isinstance(step, int) else f".{step[:_LONGEST_NAME]}"
    param = param.removeprefix(".")
    if detail["type"] == "extra_forbidden":
        return HttpError.unsupported(param, "this server has no such parameter")
    if detail["type"] == "missing":
        return HttpError.invalid(param, "is needed")
    message = detail["msg"]
    return HttpError.invalid(param, message[0].lower() + message[1:])
