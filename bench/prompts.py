"""Prompts of a file: JSON lines in one of the formats that data sets of the field come in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: The 20 questions that come with the tests.
SPEC_BENCH_20 = Path(__file__).parents[1] / "tests" / "data" / "spec_bench_20.jsonl"
#: The 20 problems of each that come with the benches.
GSM8K_20 = Path(__file__).parent / "data" / "gsm8k_20.jsonl"
HUMANEVAL_20 = Path(__file__).parent / "data" / "humaneval_20.jsonl"
#: What is taken where nobody names a file.
BUNDLED = (SPEC_BENCH_20, GSM8K_20, HUMANEVAL_20)


@dataclass(frozen=True, slots=True)
class Prompt:
    """dataset: name of its file's format. name: which one it is in its file. raw: `text` is to be completed as it
    stands; otherwise it is what a user says. line: all that the file has of it, as answers to check against."""

    dataset: str
    name: str
    text: str
    raw: bool = False
    line: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)


def _user_turn(turns: Sequence[Mapping[str, Any]], role: str, text: str, users: Sequence[str]) -> str:
    return next(str(turn[text]) for turn in turns if turn[role] in users)


def _spec_bench(line: Mapping[str, Any]) -> tuple[str, bool]:
    return line["turns"][0], False


def _gsm8k(line: Mapping[str, Any]) -> tuple[str, bool]:
    return line["question"], False


def _humaneval(line: Mapping[str, Any]) -> tuple[str, bool]:
    return line["prompt"], True


def _sharegpt(line: Mapping[str, Any]) -> tuple[str, bool]:
    return _user_turn(line["conversations"], "from", "value", ("human", "user")), False


def _messages(line: Mapping[str, Any]) -> tuple[str, bool]:
    return _user_turn(line["messages"], "role", "content", ("user",)), False


def _text(line: Mapping[str, Any]) -> tuple[str, bool]:
    return line["text"], True


@dataclass(frozen=True, slots=True)
class _Format:
    """marks: fields that tell its lines from those of other formats. names: fields that may name a line."""

    marks: Sequence[str]
    read: Callable[[Mapping[str, Any]], tuple[str, bool]]
    names: Sequence[str] = ("id",)


#: By name; of several that fit a line the first is meant.
_FORMATS: Mapping[str, _Format] = {
    "spec-bench": _Format(("turns",), _spec_bench, ("question_id",)),
    "gsm8k": _Format(("question", "answer"), _gsm8k),
    "humaneval": _Format(("prompt", "test", "entry_point"), _humaneval, ("task_id",)),
    "sharegpt": _Format(("conversations",), _sharegpt),
    "messages": _Format(("messages",), _messages),
    "text": _Format(("text",), _text),
}

FORMATS: tuple[str, ...] = tuple(_FORMATS)


def read_prompts(path: Path, count: int | None = None) -> list[Prompt]:
    """The first `count` prompts of a file (all if None). Each line's format is told by its fields.

    Raises OSError, or ValueError naming the line.
    """
    prompts: list[Prompt] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if count is not None and len(prompts) == count:
            break
        try:
            prompts.append(_prompt(json.loads(line), number))
        except (ValueError, KeyError, IndexError, TypeError, StopIteration) as error:
            fields = "; ".join(f"{name}: {', '.join(each.marks)}" for name, each in _FORMATS.items())
            raise ValueError(f"{path}, line {number}: is no prompt ({error!r}); fields by format: {fields}") from error
    if not prompts:
        raise ValueError(f"{path} holds no prompts")
    return prompts


def _prompt(line: Mapping[str, Any], number: int) -> Prompt:
    for name, each in _FORMATS.items():
        if all(mark in line for mark in each.marks):
            text, raw = each.read(line)
            if not isinstance(text, str) or not text.strip():
                raise ValueError("its text is empty")
            named = next((str(line[key]) for key in each.names if key in line), str(number))
            return Prompt(name, named, text, raw, line)
    raise ValueError("no format has its fields")
