"""`--help` and `--version`: every flag says what it does and what it is where it is not given."""

from __future__ import annotations

import re

import pytest

from tandem import __version__
from tests.cli.processes import tandem

COMMANDS = ["up", "complete", "chat", "demo", "pull", "distil"]
WIDE = {"COLUMNS": "400"}  # every flag on one line
FLAG = re.compile(r"│ (\* |  )? *--")  # with a star before it where it is needed
#: Flags whose default needs no words: switches, and texts and lists that are empty.
PLAIN = re.compile(r"<bool>|Repeatable|--help|--system|-revision|--revision|--threshold|--endpoint")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_says_what_it_does_and_its_default(command: str) -> None:
    done = tandem(command, "--help", variables=WIDE)
    assert (done.returncode, done.stderr) == (0, "")
    flags = [line.strip("│* ") for line in done.stdout.splitlines() if FLAG.match(line)]
    assert len(flags) >= 2
    for line in flags:
        assert len(re.split(r"\s{2,}", line)) >= 3, f"no help: {line}"
        assert PLAIN.search(line) or re.search(r"\[default:|\[required|unset", line), f"no default: {line}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example_that_fits_80_columns(command: str) -> None:
    done = tandem(command, "--help", variables={"COLUMNS": "80"})
    lines = done.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert [line for line in lines if line.startswith(f" tandem {command}")]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]], ids=str)
def test_the_command_alone_lists_its_commands(arguments: list[str]) -> None:
    done = tandem(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert [command for command in COMMANDS if not re.search(rf"│ {command}  ", done.stdout)] == []


def test_the_version_is_the_packages() -> None:
    assert tandem("--version").stdout == f"tandem {__version__}\n"
