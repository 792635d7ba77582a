"""`tandem keys`: the file of API keys that an orchestrator asks its callers for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tandem.cli.errors import CliError
from tandem.keys import KeyEntry, KeyFileError, KeyLimits, locked, make_key, read_keys, write_keys

app = typer.Typer(
    help="API keys of an orchestrator: make, list and revoke them.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_File = Annotated[
    Path, typer.Option("--file", metavar="FILE", help="The orchestrator's --api-keys; must be set, it has no default.")
]


@app.command()
def new(
    file: _File,
    name: Annotated[str | None, typer.Option("--id", metavar="ID", help="Its name in lists; drawn if unset.")] = None,
    concurrent: Annotated[
        int | None, typer.Option(min=1, help="Most completions under way at once; no limit if unset.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Most tokens of prompts and answers in a minute; no limit if unset.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens that a request may ask for; no limit if unset.")
    ] = None,
    days: Annotated[
        float | None, typer.Option(min=0, max=36500, help="Days until it expires; it does not if unset.")
    ] = None,
) -> None:
    """Make a key and add it to the file, which keeps only its hash; prints the key, this once.

    \b
    tandem keys new --file keys.json --id alice --concurrent 4
    """
    limits = KeyLimits(concurrent=concurrent, tokens_per_minute=tokens_per_minute, max_tokens=max_tokens)
    expires = None if days is None else (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
    try:
        key, entry = make_key(name, limits, expires)
    except ValueError as error:
        raise CliError(f"--id: {error}") from error
    with _changing(file):
        entries = read_keys(file) if file.exists() else ()
        if any(each.id == entry.id for each in entries):
            raise CliError(f"--id: {file} has a key {entry.id!r} already, revoked ones included; choose another")
        write_keys(file, [*entries, entry])
    print(key)


@app.command("list")
def list_keys(file: _File) -> None:
    """List the keys of the file with their limits.

    \b
    tandem keys list --file keys.json
    """
    table = Table("id", "state", "concurrent", "tokens a minute", "max tokens", "made", "expires", box=None)
    now = datetime.now(UTC)
    with _one_line():
        for entry in read_keys(file):
            table.add_row(*_row(entry, now))
    Console(highlight=False).print(table)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(metavar="ID", help="The key's id.")],
    file: _File,
) -> None:
    """Revoke a key: orchestrators that watch the file refuse it from their next request on.

    \b
    tandem keys revoke alice --file keys.json
    """
    now = datetime.now(UTC).replace(microsecond=0)
    with _changing(file):
        entries = list(read_keys(file))
        for index, entry in enumerate(entries):
            if entry.id == name:
                if entry.state(now) == "revoked":
                    raise CliError(f"{name!r} is revoked already")
                entries[index] = entry.model_copy(update={"revoked": now})
                break
        else:
            raise CliError(f"{file} has no key {name!r}; `tandem keys list --file {file}` shows those that there are")
        write_keys(file, entries)


@contextmanager
def _one_line() -> Iterator[None]:
    """Errors of the file as the command's."""
    try:
        yield
    except KeyFileError as error:
        raise CliError(f"--file: {error}") from error


@contextmanager
def _changing(file: Path) -> Iterator[None]:
    with _one_line(), locked(file):
        yield


def _row(entry: KeyEntry, now: datetime) -> list[str]:
    limits = entry.limits
    numbers = (limits.concurrent, limits.tokens_per_minute, limits.max_tokens)
    moments = (entry.created, entry.expires)
    return [
        entry.id,
        entry.state(now),
        *("no limit" if number is None else str(number) for number in numbers),
        *("-" if moment is None else f"{moment:%Y-%m-%d %H:%M}" for moment in moments),
    ]
