"""How the command fails: one line on stderr, an exit code, no trace."""

from __future__ import annotations

import sys
from typing import NoReturn

#: Exit code of bad input and of services that cannot be had, as of unusable flags.
FAILURE = 2
#: Exit code after Ctrl-C, as shells have it.
INTERRUPTED = 130

#: Of text that the terminal or a pipe gave.
NOT_UTF8 = "is not valid UTF-8"


class CliError(Exception):
    """Ends the command; the message is one line that says what to do."""


def fail(message: str) -> NoReturn:
    print(f"tandem: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(FAILURE)
