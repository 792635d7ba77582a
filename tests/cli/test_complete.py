"""`tandem complete`, `chat` and `demo` against services that were started by hand, one process each."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import CONTEXT
from tests.cli.processes import TANDEM, environment, refusal, running, service, tandem

PROMPT = "[bold]To be[/bold] or not to be, that is the question"


def answer(endpoint: str, *flags: str | Path, variables: dict[str, str] | None = None) -> dict[str, Any]:
    """The object of `--json`; asserts that there is nothing else anywhere."""
    done = tandem("complete", PROMPT, "--json", "--endpoint", endpoint, *flags, variables=variables)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.endswith("}\n") and done.stdout.count("\n") == 1
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def alone(endpoint: str) -> dict[str, Any]:
    """The target's own text at temperature 0."""
    return answer(endpoint, "--policy", "off", "--max-tokens", "40")


def test_json_without_speculation_says_so(alone: dict[str, Any]) -> None:
    assert set(alone) >= {"text", "token_ids", "finish_reason", "usage", "speculation", "seed"}
    assert "tokens" not in alone
    assert (alone["finish_reason"], len(alone["token_ids"])) == ("length", 40)
    assert alone["usage"]["completion_tokens"] == 40 and alone["speculation"]["drafted_tokens"] == 0


@pytest.mark.parametrize(
    ("stop", "accept"),
    [
        ("fixed", "exact"),
        ("adasd", "ratio"),
        ("adaedl", "block"),
        ("confidence", "coupled"),
        ("adaedl", "adasd"),
        ("confidence", "adasd-kde"),
        ("fixed", "jsd"),
        ("bandit", "fly"),
        ("tiers", "consultant"),
        ("draft-verify", "typical"),
        ("joint-confidence", "tolerance"),
    ],
)
def test_every_rule_gives_one_object_that_accounts_for_every_token(
    endpoint: str, alone: dict[str, Any], stop: str, accept: str
) -> None:
    threshold = ["--threshold", "0.3"] if accept == "jsd" else []
    flags = ["--stop", stop, "--accept", accept, *threshold, "--max-tokens", "40", "--audit"]
    result = answer(endpoint, *flags)
    report, tokens = result["speculation"], result["tokens"]
    assert (report["stop_rule"], report["accept_rule"]) == (stop, accept)
    assert [token["token_id"] for token in tokens] == result["token_ids"]
    assert report["drafted_tokens"] > 0 and {"draft_matched", "correction"} <= {token["source"] for token in tokens}
    assert result["usage"]["completion_tokens"] == len(tokens) == 40
    # A tolerance is nothing at temperature 0.
    assert report["lossy"] == (accept in ("adasd", "adasd-kde", "jsd", "fly", "consultant", "typical"))
    if not report["lossy"]:
        assert (result["text"], result["token_ids"]) == (alone["text"], alone["token_ids"])


def test_a_seed_gives_one_text_above_temperature_0(endpoint: str) -> None:
    flags = ["--temperature", "1", "--seed", "7", "--accept", "coupled", "--max-tokens", "40"]
    one, two = answer(endpoint, *flags), answer(endpoint, *flags, "--stop", "fixed", "--draft-tokens", "2")
    other = answer(endpoint, *flags[:3], "8", *flags[4:])
    assert one["seed"] == 7 and one["token_ids"] == two["token_ids"] != other["token_ids"]


def test_services_of_its_own_give_the_text_of_services_started_by_hand(models: Path, alone: dict[str, Any]) -> None:
    done = tandem(
        "complete", PROMPT, "--accept", "exact", "--max-tokens", "40",
        "--target-model", models / "target", "--draft-model", models / "draft", "--dtype", "float32",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == alone["text"] + "\n"


def test_the_text_is_the_same_streamed_or_whole_and_in_any_encoding(endpoint: str, alone: dict[str, Any]) -> None:
    text, flags = alone["text"], ["--policy", "off", "--max-tokens", "40"]
    assert not text.isascii() and any(not character.isprintable() for character in text)  # or this shows nothing
    shown = tandem("complete", PROMPT, "--endpoint", endpoint, *flags)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, text + "\n", "")
    latin = {"PYTHONIOENCODING": "ascii"}
    assert answer(endpoint, *flags, variables=latin)["text"] == text
    replaced = tandem("complete", PROMPT, "--endpoint", endpoint, *flags, variables=latin)
    assert replaced.stdout == text.encode("ascii", "replace").decode() + "\n"


def test_a_prompt_from_stdin_is_the_prompt(endpoint: str, alone: dict[str, Any]) -> None:
    flags = ["--endpoint", endpoint, "--accept", "exact", "--max-tokens", "40"]
    done = tandem("complete", "-", *flags, stdin=PROMPT.encode())
    assert done.stdout == alone["text"] + "\n"


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--stop-token", "257"], "stop_token_ids[0]: token 257 is not below the vocabulary size 257"),
        (["--logit-bias", "999=1"], "sampling.logit_bias: token 999 is not below the vocabulary size 257"),
        (["--accept", "jsd", "--threshold", "2"], "speculation.accept.jsd.threshold: must be in [0, 1], not 2.0"),
        (["--lossy-budget", "nan"], "speculation.accept.adasd.lossy_budget"),
        (["--accept", "typical", "--rule-option", "epsilon=2"], "speculation.accept.typical.epsilon: must be in"),
        (["--accept", "fly", "--rule-option", "window=-3"], "speculation.accept.fly.window: must be in"),
        (["--stop", "named:toy", "--rule-option", "length=2"], "speculation.stop.named.name: there is no stop rule"),
        (["--stop-text", ""], "stop[0]: is empty"),
        (["--timeout", "0.001"], "timeout: "),
    ],
    ids=str,
)
def test_what_a_service_refuses_is_one_line_with_its_field(endpoint: str, flags: list[str], named: str) -> None:
    assert named in refusal(tandem("complete", PROMPT, "--endpoint", endpoint, *flags))


def test_a_prompt_longer_than_the_context_is_one_line_with_both_lengths(endpoint: str) -> None:
    size = CONTEXT + 7
    line = refusal(tandem("complete", "-", "--raw", "--endpoint", endpoint, stdin=b"x" * size))
    assert line == f"the prompt of {size} tokens and one more exceed the context of {CONTEXT}"


def test_an_endpoint_that_is_no_orchestrator_is_told_apart(target: str) -> None:
    line = refusal(tandem("complete", PROMPT, "--endpoint", target))
    assert line == f"what answers at {target} is not an orchestrator; name one with --endpoint"


def test_a_target_that_is_not_there_is_one_line_and_a_draft_is_done_without(
    models: Path, target: str, alone: dict[str, Any]
) -> None:
    flags = ["--tokenizer", models / "target", "--connect-timeout-seconds", "0.2", "--draft", "127.0.0.1:1"]
    with service("orchestrator", *flags, "--target", "127.0.0.1:1") as port:
        assert "127.0.0.1:1" in refusal(tandem("complete", PROMPT, "--endpoint", f"127.0.0.1:{port}"))
    with service("orchestrator", *flags, "--target", target) as port:
        result = answer(f"127.0.0.1:{port}", "--max-tokens", "40")
    assert (result["text"], result["speculation"]["draft_failures"]) == (alone["text"], 1)


def test_an_orchestrator_with_another_tokenizer_is_one_line_that_names_both(models: Path, target: str) -> None:
    with service("orchestrator", "--tokenizer", models / "other", "--target", target, "--draft", "none") as port:
        line = refusal(tandem("complete", PROMPT, "--endpoint", f"127.0.0.1:{port}"))
    assert "other" in line and "target" in line and "--tokenizer" in line


@pytest.mark.parametrize("flags", [[], ["--audit"], ["--json"]], ids=str)
def test_a_reader_that_leaves_early_is_no_error_to_explain(endpoint: str, flags: list[str]) -> None:
    process = subprocess.Popen(
        [TANDEM, "complete", PROMPT, "--endpoint", endpoint, "--ignore-end", "--max-tokens", "300", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    if "--json" not in flags:
        process.stdout.read(1)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), errors) == (1, b"")


def test_ctrl_c_ends_a_request_and_leaves_the_services_to_others(endpoint: str, alone: dict[str, Any]) -> None:
    flags = ["--ignore-end", "--max-tokens", str(CONTEXT // 2), "--endpoint", endpoint]
    with running("complete", PROMPT, *flags) as command:
        assert command.process.stdout is not None and command.process.stdout.read(1)
        command.press_ctrl_c()
        assert (command.end(), command.errors) == (130, "\n")
    assert answer(endpoint, "--accept", "exact", "--max-tokens", "40")["text"] == alone["text"]


def test_chat_answers_each_line_and_ends_with_the_input(endpoint: str) -> None:
    done = tandem("chat", "--endpoint", endpoint, "--max-tokens", "5", "--audit", stdin=b"one\ntwo\n")
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert done.stdout.count("{T}") >= 2 and "{T} target" in done.stderr


def test_the_demo_shows_all_three_runs_within_80_columns(endpoint: str) -> None:
    done = tandem("demo", "--endpoint", endpoint, "--max-tokens", "12", variables={"COLUMNS": "80"})
    assert (done.returncode, done.stderr) == (0, "")
    parts = ("draft draft proposes, target target verifies", "{T}", "adasd, lossy", "target alone", "lossless, ")
    assert [part for part in parts if part not in done.stdout] == []
