"""Prompts: the same for the same seed, fresh for another, fit to be asked, and never those of the benches."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from bench.prompts import BUNDLED
from tandem.distil.prompts import Prompt, PromptError, open_mixture
from tandem.distil.prompts.exclude import Exclusion, normalised
from tandem.distil.prompts.files import FilePrompts, read_prompts
from tandem.distil.prompts.own_turns import OwnTurns
from tandem.distil.prompts.templates import Grammar, Kind, TemplatePrompts, built_in
from tandem.distil.recipe import Prompts, Recipe
from tests.support.tiny_target import TEMPLATE
from tests.support.tokens import byte_tokenizer, ids

_DRAWS = 6000


@pytest.fixture(scope="module")
def draws() -> list[Prompt]:
    source = TemplatePrompts(seed=5)
    return [source.prompt(number % 7, number) for number in range(_DRAWS)]


def test_a_draw_depends_on_seed_shard_and_number_alone(draws: list[Prompt]) -> None:
    again = TemplatePrompts(seed=5)
    for number in (977, 3, 400, 3):
        assert again.prompt(number % 7, number) == draws[number]
    other = TemplatePrompts(seed=6)
    assert sum(other.prompt(number % 7, number) == draws[number] for number in range(100)) < 5
    assert sum(again.prompt(8, number) == draws[number] for number in range(100)) < 5


def test_few_draws_repeat(draws: list[Prompt]) -> None:
    assert len({normalised(draw.first + draw.text) for draw in draws}) > 0.96 * _DRAWS


def test_all_slots_are_filled(draws: list[Prompt]) -> None:
    assert {draw.kind for draw in draws} == {kind.name for kind in built_in().kinds}
    for draw in draws:
        left = set(re.findall(r"\{\^?[a-z0-9_]+[-:/a-z0-9]*\}", draw.first + draw.text))
        assert left <= ({"{passage}"} if draw.first else set()), draw
        assert ("{passage}" in draw.text) == bool(draw.first), draw


def test_code_to_go_on_with_is_code(draws: list[Prompt]) -> None:
    raw = {draw.text for draw in draws if draw.kind == "function"}
    assert len(raw) > 400
    for text in raw:
        ast.parse(text + "    pass\n")


def test_all_lists_are_used() -> None:
    grammar = built_in()
    forms = [form for kind in grammar.kinds for form in (*kind.forms, *kind.first)]
    texts = "".join([*forms, *(entry for entries in grammar.lists.values() for entry in entries)])
    assert [name for name in grammar.lists if not re.search(rf"\{{\^?{name}[:}}]", texts)] == []


def test_the_benches_prompts_are_not_among_them(draws: list[Prompt]) -> None:
    exclusion = Exclusion.of_files(BUNDLED)
    assert [draw for draw in draws if exclusion.covers(draw.text) or exclusion.covers(draw.first)] == []


def test_slots_say_what_they_said_before_and_numbers_keep_their_range() -> None:
    lists = {"who": ["ann", "bob", "{who_else}"], "who_else": ["cy"]}
    grammar = Grammar([Kind("only", 1, ["{^who:a} {who:a} {2-9:n} {2-9:n} {10-50/20} {who}"])], lists)
    seen = set()
    for number in range(300):
        capital, same, n, again, stepped, other = TemplatePrompts(1, grammar).prompt(0, number).text.split()
        assert capital == same.capitalize() and n == again
        assert 2 <= int(n) <= 9 and int(stepped) in (10, 30, 50) and other in ("ann", "bob", "cy")
        seen.add((same, n))
    assert len(seen) == 3 * 8


def test_a_slot_without_a_list_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        Grammar([Kind("only", 1, ["say {nothing}"])])


def test_files_are_read_in_every_form(tmp_path: Path) -> None:
    records = [
        {"prompt": "one", "answer": "x"},
        {"turns": ["two", "later"]},
        {"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "three"}]},
    ]
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "lines.txt").write_text("four\n\n  five \n")
    assert read_prompts(tmp_path / "some.jsonl") == [
        Prompt("some", "one"), Prompt("some", "two"), Prompt("some", "three", system="be kind")
    ]  # fmt: skip
    assert [prompt.text for prompt in read_prompts(tmp_path / "lines.txt")] == ["four", "five"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is no JSON"), ("[1]", "no record"), ('{"text": "a"}', "has none of"),
        ('{"prompt": " "}', "prompt: is no text"), ('{"prompt": 3}', "prompt: is no text"),
        ('{"turns": []}', "turns: is no list"), ('{"turns": "a"}', "turns: is no list"),
        ('{"turns": [1]}', r"turns\[0\]: is no text"), ('{"messages": []}', "messages: nothing is said"),
        ('{"messages": [1]}', r"messages\[0\]"), ('{"messages": [{"role": "user"}]}', r"messages\[0\]\.content"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "some.jsonl").write_text('{"prompt": "good"}\n\n' + line + "\n")
    with pytest.raises(PromptError, match=rf"some\.jsonl, line 3: .*{message}"):
        read_prompts(tmp_path / "some.jsonl")


@pytest.mark.parametrize("name", ["empty.txt", "none.jsonl", "some.csv"])
def test_a_file_without_prompts_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "some.csv").write_text("a,b")
    with pytest.raises(PromptError, match=name):
        read_prompts(tmp_path / name)


def test_shards_have_different_prompts_of_a_file_while_there_are_enough(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("\n".join(f"prompt {number}" for number in range(40)))
    source = FilePrompts([tmp_path / "lines.txt"], seed=1, stride=10)
    order = [source.prompt(shard, number).text for shard in range(8) for number in range(10)]
    assert len(set(order[:40])) == len(set(order[40:])) == 40
    assert order[:40] != order[40:] and order[:40] != sorted(order[:40])
    assert [source.prompt(2, 3).text, source.prompt(6, 1).text] == [order[23], order[61]]


def test_own_turns_begin_and_end_where_the_template_says() -> None:
    tokenizer = byte_tokenizer(template=TEMPLATE)
    own = OwnTurns.of(tokenizer)
    assert own.head == ids("user: ") and own.ends == {0}
    assert own.text([*ids(" Why? "), 0]) == "Why?"


@pytest.mark.parametrize(
    "token_ids", [[], ids("Why?"), [0], [*ids(" .\n"), 0], [*ids("a"), 0, *ids("b"), 0], [0xC3 + 1, 0]]
)
def test_what_is_no_turn_is_none(token_ids: list[int]) -> None:
    assert OwnTurns.of(byte_tokenizer(template=TEMPLATE)).text(token_ids) is None


@pytest.mark.parametrize(
    ("template", "message"),
    [(None, "no chat template"), ("{% for m in messages %}[{{ m.content }}] {% endfor %}", "no token of its own")],
)
def test_own_turns_need_a_template_that_ends_them(template: str | None, message: str) -> None:
    tokenizer = byte_tokenizer(template=template)
    with pytest.raises(PromptError, match=message):
        OwnTurns.of(tokenizer)
    with pytest.raises(PromptError, match=f"prompts.self_written: .*{message}"):
        open_mixture(Recipe(target="t", prompts=Prompts(self_written=0.3)), Path(), tokenizer)
    mixture = open_mixture(Recipe(target="t"), Path(), tokenizer)
    assert any(message in note for note in mixture.notes)
    assert all(mixture.draw(0, number) is not None for number in range(50))


def test_sources_are_mixed_as_the_recipe_says(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("\n".join(f"prompt {number}" for number in range(500)))
    tokenizer = byte_tokenizer(template=TEMPLATE)
    asked = Prompts(files=("mine.txt",), self_written=0.4)
    mixture = open_mixture(Recipe(target="t", prompts=asked), tmp_path, tokenizer)
    drawn = [mixture.draw(1, number) for number in range(2000)]
    kinds = Counter("own" if draw is None else "mine" if draw.kind == "mine" else "templates" for draw in drawn)
    assert [round(kinds[name] / 2000, 1) for name in ("own", "mine", "templates")] == [0.4, 0.3, 0.3]
    assert drawn == [mixture.draw(1, number) for number in range(2000)]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_nothing_to_ask_is_refused(share: float) -> None:
    recipe = Recipe(target="t", prompts=Prompts(templates=False, self_written=share))
    with pytest.raises(PromptError, match="prompts: nothing to ask"):
        open_mixture(recipe, Path(), byte_tokenizer(template=TEMPLATE))
