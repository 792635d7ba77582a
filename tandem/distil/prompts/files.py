"""Prompts from files: `.jsonl` with `prompt`, `turns` or `messages` in each record, `.txt` with one on each line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from tandem.distil.prompts.source import Prompt, PromptError
from tandem.distil.seeding import seed_of

_FIELDS = "`prompt`, `turns` or `messages`"


class FilePrompts:
    """The prompts of some files, in an order that is random in each pass over them: shards have different ones while
    there are enough."""

    def __init__(self, paths: Sequence[Path], seed: int, stride: int) -> None:
        """stride: prompts that a shard draws from here, about. Raises PromptError."""
        self._prompts = [prompt for path in paths for prompt in read_prompts(path)]
        self._seed = seed
        self._stride = stride
        self._order: tuple[int, Sequence[int]] = (-1, ())

    def prompt(self, shard: int, number: int) -> Prompt:
        # By the place in the whole run and not by a draw: draws would repeat some before others had their turn.
        turn, place = divmod(shard * self._stride + number, len(self._prompts))
        if self._order[0] != turn:
            order = list(range(len(self._prompts)))
            Random(seed_of(self._seed, "files", turn)).shuffle(order)
            self._order = turn, order
        return self._prompts[self._order[1][place]]


def read_prompts(path: Path) -> list[Prompt]:
    """All prompts of a file. Raises PromptError, which names the file and the line."""
    if path.suffix not in (".jsonl", ".txt"):
        raise PromptError(f"{path}: prompts are read from .jsonl and .txt files")
    kind = path.stem
    prompts = []
    for number, line in lines_of(path):
        try:
            prompts.append(Prompt(kind, line) if path.suffix == ".txt" else _prompt(kind, json.loads(line)))
        except json.JSONDecodeError as error:
            raise PromptError(f"{path}, line {number}: is no JSON: {error}") from error
        except PromptError as error:
            raise PromptError(f"{path}, line {number}: {error}") from error
    if not prompts:
        raise PromptError(f"{path} has no prompts")
    return prompts


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Numbers, from 1, and text of the lines that are not empty. Raises PromptError."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"{path} cannot be read: {error}") from error
    # Not `splitlines`: JSON may hold line separators other than these as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def _prompt(kind: str, record: Any) -> Prompt:
    if not isinstance(record, Mapping):
        raise PromptError(f"is no record with {_FIELDS}")
    if "prompt" in record:
        return Prompt(kind, _text(record["prompt"], "prompt"))
    if "turns" in record:
        turns = record["turns"]
        if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
            raise PromptError("turns: is no list of texts")
        return Prompt(kind, _text(turns[0], "turns[0]"))
    if "messages" in record:
        return _conversation(kind, record["messages"])
    raise PromptError(f"has none of {_FIELDS}")


def _conversation(kind: str, messages: Any) -> Prompt:
    """The first turn of the user, and what the system said before it."""
    system = ""
    for index, message in enumerate(messages if isinstance(messages, Sequence) else ()):
        if not isinstance(message, Mapping):
            raise PromptError(f"messages[{index}]: has no role and content")
        if message.get("role") == "system":
            system = _text(message.get("content"), f"messages[{index}].content")
        elif message.get("role") == "user":
            return Prompt(kind, _text(message.get("content"), f"messages[{index}].content"), system=system)
    raise PromptError("messages: nothing is said by a user")


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise PromptError(f"{field}: is no text")
    return value
