"""Keeps prompts out that a draft will be measured on, and what shares a run of words with them."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tandem.distil.prompts.files import lines_of
from tandem.distil.prompts.source import PromptError

#: Words in a row that a prompt may not share with an excluded text.
RUN = 8

_WORD = re.compile(r"\w+")


class Exclusion:
    """What is excluded. Words count, and their order: case, punctuation, white space and forms of characters do not."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._runs: set[str] = set()
        self._short: set[str] = set()  # texts of fewer words than a run has: only all of them together count
        for text in texts:
            words = _words(text)
            if len(words) < RUN:
                self._short.add(" ".join(words))
            self._runs.update(_runs(words))
        self._short.discard("")

    @classmethod
    def of_files(cls, paths: Sequence[Path]) -> Self:
        """Of all texts, at any depth, in the records of `.jsonl` files, and of the lines of `.txt` files. Raises
        PromptError, which names the file and the line."""
        return cls(text for path in paths for text in _texts_of(path))

    def covers(self, text: str) -> bool:
        """Whether the text shares a run of words with an excluded one, or is one."""
        words = _words(text)
        return " ".join(words) in self._short or not self._runs.isdisjoint(_runs(words))


def normalised(text: str) -> str:
    """The words of a text, by which it is told whether two are the same."""
    return " ".join(_words(text))


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _runs(words: Sequence[str]) -> Iterator[str]:
    return (" ".join(words[start : start + RUN]) for start in range(len(words) - RUN + 1))


def _texts_of(path: Path) -> Iterator[str]:
    if path.suffix not in (".jsonl", ".txt"):
        raise PromptError(f"{path}: prompts to exclude are read from .jsonl and .txt files")
    for number, line in lines_of(path):
        if path.suffix == ".txt":
            yield line
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise PromptError(f"{path}, line {number}: is no JSON: {error}") from error
        yield from _texts_in(record)


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts_in(each)
