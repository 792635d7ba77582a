"""Runs the command: every failure is one line on stderr and an exit code."""

from __future__ import annotations

import io
import logging
import sys
from typing import Any

import typer

from tandem.cli.app import app
from tandem.cli.errors import INTERRUPTED, CliError, fail
from tandem.rpc.errors import TandemError

# What a command line can do wrong; typer exports only one kind of it.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def _explain(error: Any) -> str:
    """Names the flag, which the error's own text leaves out."""
    command = error.ctx.command_path if error.ctx is not None else "tandem"
    return f"{error.format_message().rstrip('.')}; {command} --help lists the flags"


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack characters that the model has
    try:
        code = app(standalone_mode=False)
    except _UsageError as error:
        fail(_explain(error))
    except TandemError as error:
        fail(error.message)
    except CliError as error:
        fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:
        print(file=sys.stderr)
    sys.exit(code)
