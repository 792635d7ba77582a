"""What a prompt is, and what gives prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

#: Where the target's own text goes, in the text of a prompt that has a `first`.
PASSAGE = "{passage}"


class PromptError(ValueError):
    """Prompts cannot be had; the message names the file and line, or the field of the recipe."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """kind: of text, for the account of what was asked. text: what the user says. raw: it is no user's turn but text to
    go on with, without a chat template. system: what the conversation begins with; empty: nothing, or what the target's
    template says by itself. first: a turn that the target answers before; its answer then stands in `text` for
    `{passage}`; empty: there is none."""

    kind: str
    text: str
    raw: bool = False
    system: str = ""
    first: str = ""


class Source(Protocol):
    """Gives prompts, each a pure function of the source, the shard and the number in it."""

    def prompt(self, shard: int, number: int) -> Prompt: ...
