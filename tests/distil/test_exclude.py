"""What a draft is measured on stays out of what it learns from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tandem.distil.prompts.exclude import Exclusion
from tandem.distil.prompts.source import PromptError

_EIGHT = "the quick brown fox jumps over the lazy"
_TEXT = f"Yesterday, {_EIGHT} dog and nobody cared."


@pytest.mark.parametrize(
    "prompt",
    [
        _TEXT,
        f"Who said that {_EIGHT} cat is late?",
        "THE QUICK, brown fox -- jumps\nover \"the\" lazy",
        "the quick brown fox jumps over the \uff4c\uff41\uff5a\uff59 mouse",  # full-width letters
    ],
)
def test_a_shared_run_of_eight_words_drops_a_prompt(prompt: str) -> None:
    assert Exclusion([_TEXT]).covers(prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        "the quick brown fox jumps over the energetic dog and nobody",  # seven words in a row, and five
        "lazy the over jumps fox brown quick the",
        "thequickbrownfoxjumpsoverthelazy dog",
        "",
    ],
)
def test_fewer_words_in_a_row_do_not(prompt: str) -> None:
    assert not Exclusion([_TEXT]).covers(prompt)


def test_a_short_text_excludes_itself_only() -> None:
    exclusion = Exclusion(["Which way does the wind blow?", "..."])
    assert exclusion.covers("which way, does the wind blow")
    assert not exclusion.covers("Which way does the wind blow in Oslo?")
    assert not exclusion.covers("...")


def test_runs_do_not_reach_from_one_text_into_the_next() -> None:
    words = _EIGHT.split()
    assert not Exclusion([" ".join(words[:4]), " ".join(words[4:])]).covers(_EIGHT)


def test_all_texts_of_a_record_count_at_any_depth(tmp_path: Path) -> None:
    records = [
        {"turns": ["a question of no weight", _TEXT]},
        {"messages": [{"content": {"parts": ["one two three four five six seven eight nine"]}}], "n": 3},
    ]
    (tmp_path / "held.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n\n")
    (tmp_path / "more.txt").write_text("alpha beta gamma delta epsilon zeta eta theta\nsecond line\n")
    exclusion = Exclusion.of_files([tmp_path / "held.jsonl", tmp_path / "more.txt"])
    assert exclusion.covers(_EIGHT)
    assert exclusion.covers("zero one two three four five six seven eight")
    assert exclusion.covers("alpha beta gamma delta epsilon zeta eta theta iota")
    assert exclusion.covers("Second line!")
    assert not exclusion.covers("beta gamma delta epsilon zeta eta theta second line")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("held.jsonl", '{"a": "b"}\n{"a": ', "held.jsonl, line 2"),
        ("held.csv", "a,b", "held.csv"),
        ("held.txt", b"\xff\xfe\x00", "held.txt"),
        ("none.txt", None, "none.txt"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: str | bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PromptError, match=message):
        Exclusion.of_files([tmp_path / name])
