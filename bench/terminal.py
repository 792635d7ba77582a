"""What the benches' commands have in common: where they print, how they fail, how they end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

import typer
from rich.console import Console

from bench.goals import Row, falls_short, summary
from bench.tables import goals_table
from tandem.cli.errors import CliError
from tandem.models import ModelError
from tandem.rpc.errors import TandemError
from tandem.tokenization import TokenizationError


def conclude(console: Console, rows: Sequence[Row], *, quick: bool, check: bool) -> None:
    """The end of every bench that has goals."""
    console.print(goals_table(rows))
    console.print(f"\n{'Rough: --quick repeats little. ' if quick else ''}{summary(rows)}")
    if check and falls_short(rows):
        raise typer.Exit(1)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What cannot be done is said in one line on stderr, with exit code 2."""
    try:
        yield
    except (CliError, TandemError, ModelError, TokenizationError, OSError, ValueError) as error:
        typer.echo(f"bench: {error}", err=True)
        raise typer.Exit(2) from error


def check_drawing(who: str) -> None:
    """Before anything is measured that could not be drawn. Raises CliError."""
    if find_spec("matplotlib") is None:
        raise CliError(f"{who} draws with matplotlib, which is not installed: pip install matplotlib")


def stdout() -> Console:
    """Wide where it is no terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:  # a file has no width
        console.width = 240
    return console
