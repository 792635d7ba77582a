"""The built-in prompts: forms with slots that are filled from lists of words, of many kinds of text.

The forms and lists lie in `data/*.toml`. A slot is `{list}`, an entry of that list, which may have slots itself, or
`{2-40}`, a whole number of that range, both ends included; `{100-900/50}` in steps of 50. `{list:a}` and `{2-40:a}`
remember what they became: the same slot says the same again. `{^list}` begins with a capital.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib.resources import files
from itertools import accumulate
from random import Random
from typing import Any

from tandem.distil.prompts.source import PASSAGE, Prompt
from tandem.distil.seeding import seed_of

_SLOT = re.compile(r"\{(\^?)(?:(\d+)-(\d+)(?:/(\d+))?|([a-z_]+))(:[a-z0-9]+)?\}")
# An entry that leads back to its own list would never end.
_MOST_DEPTH = 12


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of prompt. weight: how often it is drawn, relative to others. forms: of the prompt. raw: see Prompt.
    first: forms of the turn whose answer is the passage that `{passage}` in a form stands for."""

    name: str
    weight: float
    forms: Sequence[str]
    raw: bool = False
    first: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Grammar:
    """Kinds, and the lists that their slots are filled from."""

    kinds: Sequence[Kind]
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError for a slot without a list."""
        forms = [form for kind in self.kinds for form in (*kind.forms, *kind.first)]
        for text in (*forms, *(entry for entries in self.lists.values() for entry in entries)):
            for slot in _SLOT.finditer(text):
                name = slot[5]
                if name and name not in self.lists and slot[0] != PASSAGE:
                    raise ValueError(f"{text!r}: there is no list {name!r}")

    def fill(self, text: str, random: Random) -> str:
        """A form with all its slots filled; `{passage}` stays."""
        return _Filling(self.lists, random).fill(text)


class TemplatePrompts:
    """Draws of a grammar, the built-in one unless told otherwise."""

    def __init__(self, seed: int, grammar: Grammar | None = None) -> None:
        self._grammar = grammar or built_in()
        self._seed = seed
        self._sums = list(accumulate(kind.weight for kind in self._grammar.kinds))

    def prompt(self, shard: int, number: int) -> Prompt:
        random = Random(seed_of(self._seed, "templates", shard, number))
        [kind] = random.choices(self._grammar.kinds, cum_weights=self._sums)
        filling = _Filling(self._grammar.lists, random)  # one for both: the question may name what the passage is of
        first = filling.fill(random.choice(kind.first)) if kind.first else ""
        return Prompt(kind.name, filling.fill(random.choice(kind.forms)), raw=kind.raw, first=first)


@cache
def built_in() -> Grammar:
    kinds: list[Kind] = []
    lists: dict[str, Sequence[str]] = {}
    for text in _data():
        content = tomllib.loads(text)
        kinds += [Kind(**kind) for kind in content.get("kind", ())]
        for name, entries in content.get("lists", {}).items():
            if name in lists:
                raise ValueError(f"the list {name!r} is there twice")
            lists[name] = entries if isinstance(entries, list) else _phrases(entries)
    return Grammar(kinds, lists)


@cache
def fingerprint() -> str:
    """SHA-256 in hex of the built-in forms and lists: others give other prompts."""
    return sha256("\0".join(_data()).encode()).hexdigest()


def _data() -> Iterator[str]:
    folder: Any = files("tandem.distil.prompts") / "data"
    for file in sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name):
        yield file.read_text("utf-8")


def _phrases(text: str) -> list[str]:
    """A list as one text: entries between `|`, which is shorter to write for single words."""
    return [entry for part in text.split("|") if (entry := " ".join(part.split()))]


class _Filling:
    def __init__(self, lists: Mapping[str, Sequence[str]], random: Random) -> None:
        self._lists = lists
        self._random = random
        self._kept: dict[str, str] = {}

    def fill(self, text: str, depth: int = 0) -> str:
        if depth > _MOST_DEPTH:
            raise ValueError(f"{text!r} has slots in slots without end")
        return _SLOT.sub(lambda slot: self._value(slot, depth), text)

    def _value(self, slot: re.Match[str], depth: int) -> str:
        if slot[0] == PASSAGE:
            return PASSAGE
        key = slot[0].replace("^", "", 1)
        value = self._kept.get(key) if slot[6] else None
        if value is None:
            value = self._draw(slot, depth)
            if slot[6]:
                self._kept[key] = value
        return value[:1].upper() + value[1:] if slot[1] else value

    def _draw(self, slot: re.Match[str], depth: int) -> str:
        _, low, high, step, name, _ = slot.groups()
        if name:
            return self.fill(self._random.choice(self._lists[name]), depth + 1)
        return str(self._random.randrange(int(low), int(high) + 1, int(step or 1)))
