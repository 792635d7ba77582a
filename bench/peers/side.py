"""What a side of the comparison has to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tandem.cli.errors import CliError

Ids = Sequence[int]


class SideError(CliError):
    """A side cannot be measured. The message is one line."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a side made of one prompt. tokens: how many. ids: None where a server tells the text alone."""

    tokens: int
    ids: tuple[int, ...] | None
    text: str = ""


class Side(Protocol):
    """One way to complete prompts at temperature 0 that goes on after the end of sequence."""

    @property
    def name(self) -> str: ...

    async def complete(self, prompts: Sequence[Ids], tokens: int) -> list[Answer]:
        """All prompts at once as far as the side can, so many new tokens for each. Raises SideError."""
        ...

    def note(self, clients: int) -> str:
        """What the table has to say of it after it has completed so many prompts at once."""
        ...


def one_line(text: str) -> str:
    """The last line of what went wrong: where exceptions and logs say why."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it says nothing"
