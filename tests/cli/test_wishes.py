"""What `tandem complete` can be asked for besides a text: several, what it has to be, how likely it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tandem.v1 import completion_pb2
from tests.cli.processes import refusal, tandem

PROMPT = "To be or not to be"
SAMPLED = ["--temperature", "1", "--seed", "5", "--max-tokens", "12"]


def answer(endpoint: str, *flags: str | Path) -> dict[str, Any]:
    done = tandem("complete", PROMPT, "--raw", "--json", "--endpoint", endpoint, *flags)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)


def shown(endpoint: str, *flags: str | Path) -> str:
    done = tandem("complete", PROMPT, "--raw", "--endpoint", endpoint, *flags)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_several_completions_are_shown_one_below_the_other(endpoint: str) -> None:
    flags = [*SAMPLED, "--n", "3"]
    whole = answer(endpoint, *flags)
    texts = [whole["text"], *(each["text"] for each in whole["more_choices"])]
    assert len(texts) == 3 and len(set(texts)) > 1
    assert [each["usage"]["completion_tokens"] for each in (whole, *whole["more_choices"])] == [12] * 3
    assert shown(endpoint, *flags) == f"{texts[0]}\n--- 2 ---\n{texts[1]}\n--- 3 ---\n{texts[2]}\n"
    audited = shown(endpoint, *flags, "--audit")
    assert audited.count("policy ") == 3 and audited.count("{T}") >= 3


def test_a_schema_may_be_a_file_or_written_out(endpoint: str, tmp_path: Path) -> None:
    schema = json.dumps({"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"],
                         "additionalProperties": False})  # fmt: skip
    (tmp_path / "schema.json").write_text(schema)
    written = answer(endpoint, "--json-schema", schema, "--max-tokens", "300")
    read = answer(endpoint, "--json-schema", tmp_path / "schema.json", "--max-tokens", "300")
    assert written["text"] == read["text"] and written["finish_reason"] == "stop"
    assert json.loads(written["text"])["a"] in (1, 2)


def test_an_expression_or_a_choice_holds_the_text(endpoint: str) -> None:
    assert answer(endpoint, "--regex", "[ab]{3}")["text"] in {a + b + c for a in "ab" for b in "ab" for c in "ab"}
    assert answer(endpoint, "--choice", "yes", "--choice", "no")["text"] in ("yes", "no")


def test_log_probabilities_are_listed_with_what_was_likelier(endpoint: str) -> None:
    flags = ["--max-tokens", "6", "--log-probabilities", "2"]
    tokens = answer(endpoint, *flags)["log_probabilities"]
    assert len(tokens) == 6
    assert all(len(token["top"]) == 2 and token["log_probability"] <= 0 for token in tokens)
    assert all(token["top"][0]["token_id"] == token["token_id"] for token in tokens)  # temperature 0
    lines = shown(endpoint, *flags).splitlines()[-6:]
    for line, token in zip(lines, tokens, strict=True):
        assert f" {token['log_probability']:.3f}  " in line and line.count(",") >= 1


@pytest.mark.parametrize("audit", [[], ["--audit"]], ids=str)
def test_the_prompt_is_shown_where_it_is_wanted(endpoint: str, audit: list[str]) -> None:
    flags = ["--max-tokens", "6", "--policy", "off", *audit]
    with_prompt, without = shown(endpoint, *flags, "--echo"), shown(endpoint, *flags)
    assert with_prompt.splitlines()[0] == PROMPT + without.splitlines()[0]


def test_a_stop_text_is_kept_or_not_and_tokens_before_it_may_be_wanted(endpoint: str) -> None:
    whole = answer(endpoint, "--max-tokens", "12")["text"]
    stop = whole[4:6]
    flags = ["--max-tokens", "12", "--stop-text", stop]
    cut = answer(endpoint, *flags)
    assert cut["text"] == whole[: whole.index(stop)] and cut["stop"] == stop
    assert answer(endpoint, *flags, "--include-stop")["text"] == whole[: whole.index(stop)] + stop
    later = answer(endpoint, *flags, "--min-tokens", "12")
    assert later["usage"]["completion_tokens"] == 12 and later["finish_reason"] == "length"


def test_the_prompt_first_and_priority_are_the_services_to_check(endpoint: str) -> None:
    assert len(answer(endpoint, "--priority", "-7", "--max-tokens", "3")["token_ids"]) == 3


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--n", "2"], "n: must be 1 at temperature 0"),
        (["--n", "65", "--temperature", "1"], "--n"),
        (["--min-tokens", "-1"], "--min-tokens"),
        (["--log-probabilities", "21"], "--log-probabilities"),
        (["--priority", "101"], "--priority"),
        (["--json-schema", "{"], "json_schema: is not JSON"),
        (["--json-schema", "no-such-file"], "json_schema: 'no-such-file' is neither JSON nor a file"),
        (["--json-schema", "/dev/null"], "json_schema: is not JSON"),
        (["--regex", "a", "--choice", "b"], "regex and choice do not go together"),
        (["--regex", b"\xff"], "regex: is not valid UTF-8"),
        (["--choice", b"\xff"], "choice: is not valid UTF-8"),
    ],
    ids=str,
)
def test_what_no_service_would_take_is_refused_before_one_is_started(flags: list[str | bytes], named: str) -> None:
    assert named in refusal(tandem("complete", "Hello", *flags))


def test_what_the_service_refuses_names_the_field(endpoint: str) -> None:
    for flags, field in (
        (["--regex", "("], "grammar.regex"),
        (["--min-tokens", "9", "--max-tokens", "3"], "min_tokens"),
        (["--choice", ""], "grammar.choices.texts[0]"),
    ):
        assert field in refusal(tandem("complete", PROMPT, "--endpoint", endpoint, *flags))


def test_every_field_of_a_request_that_a_flag_sets_is_known(endpoint: str) -> None:
    """A list to extend with the contract: what has no flag is for programs."""
    flags = set(tandem("complete", "--help", variables={"COLUMNS": "400"}).stdout.split())
    named = {"stop": "--stop-text", "stop_token_ids": "--stop-token", "ignore_end_tokens": "--ignore-end",
             "speculation": "--policy", "sampling": "--temperature", "grammar": "--json-schema", "text": "--raw",
             "chat": "--system"}  # fmt: skip
    for_programs = {"tokens", "request_id", "return_prompt_token_ids", "resume"}
    for field in completion_pb2.CompleteRequest.DESCRIPTOR.fields_by_name:
        flag = named.get(field, f"--{field.replace('_', '-')}")
        assert (flag in flags) != (field in for_programs), field
