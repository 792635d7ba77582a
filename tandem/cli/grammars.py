"""What the text has to be, as flags say it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tandem.cli.errors import NOT_UTF8, CliError
from tandem.v1 import grammar_pb2


def grammar_of(json_schema: str | None, regex: str | None, choices: Sequence[str]) -> grammar_pb2.Grammar | None:
    """The grammar of at most one of them; None for any text. json_schema: JSON, or a file of it. Raises CliError."""
    given = {"json_schema": json_schema, "regex": regex, "choice": choices or None}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise CliError(f"{names[0]} and {names[1]} do not go together")
    try:
        if json_schema is not None:
            return grammar_pb2.Grammar(json_schema=_schema(json_schema))
        if regex is not None:
            return grammar_pb2.Grammar(regex=regex)
        return grammar_pb2.Grammar(choices=grammar_pb2.GrammarChoices(texts=choices)) if choices else None
    except UnicodeEncodeError as error:
        raise CliError(f"{names[0]}: {NOT_UTF8}") from error


def _schema(text: str) -> str:
    if not text.lstrip().startswith("{"):  # no schema of use is anything but an object, and no file's name is one
        try:
            text = Path(text).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise CliError(f"json_schema: {text} {NOT_UTF8}") from error
        except (OSError, ValueError) as error:
            raise CliError(f"json_schema: {text!r} is neither JSON nor a file that can be read") from error
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CliError(f"json_schema: is not JSON: {error}") from error
    return text
