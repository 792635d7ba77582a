"""What is refused before any service is asked: one line that names the field, exit code 2."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from tandem.cli.entry import main
from tests.cli.processes import refusal, tandem

CLOSED = "127.0.0.1:1"  # port 1 needs privileges to listen on; nothing does

Here = Callable[..., str]


@pytest.fixture
def refused_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """The line of a refused command that runs in this process, for tables of many."""
    monkeypatch.delenv("TANDEM_ENDPOINT", raising=False)

    def refused(*arguments: str | bytes) -> str:
        monkeypatch.setattr(sys, "argv", ["tandem", *map(os.fsdecode, arguments)])
        with pytest.raises(SystemExit) as exited:
            main()
        output = capsys.readouterr()
        return refusal(subprocess.CompletedProcess(arguments, exited.value.code, output.out, output.err))

    return refused


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--max-tokens", "0"], "max_tokens: must be at least 1, not 0"),
        (["--max-tokens", "-3"], "max_tokens: must be at least 1, not -3"),
        (["--max-tokens", "99999999999"], "max_tokens"),
        (["--max-tokens", "many"], "--max-tokens"),
        (["--temperature", "-1"], "sampling.temperature: must be finite and at least 0, not -1.0"),
        (["--temperature", "nan"], "sampling.temperature"),
        (["--temperature", "inf"], "sampling.temperature"),
        (["--top-p", "0"], "sampling.top_p: must lie in (0, 1], not 0.0"),
        (["--top-p", "1.5"], "sampling.top_p"),
        (["--top-p", "nan"], "sampling.top_p"),
        (["--top-k", "-1"], "'--top-k'"),
        (["--seed", "-1"], "'--seed'"),
        (["--draft-tokens", "65"], "'--draft-tokens'"),
        (["--logit-bias", "7"], "sampling.logit_bias: '7' is not ID=BIAS"),
        (["--logit-bias=-1=2"], "sampling.logit_bias"),
        (["--stop-token", "-1"], "stop_token"),
        (["--stop-token", "99999999999"], "stop_token"),
        (["--policy", "maybe"], "unknown policy 'maybe'; there are on, off"),
        (["--stop", "never"], "unknown stop rule 'never'; there are fixed, adasd, adaedl, confidence"),
        (["--accept", "all"], "unknown accept rule 'all'; there are exact,"),
        (["--accept", "jsd"], "'jsd' needs a threshold"),
        (["--accept", "exact", "--threshold", "0.5"], "has an option 'threshold'"),
        (["--rule-option", "gamma"], "rule_option: 'gamma' is not NAME=NUMBER"),
        (["--rule-option", "gamma=much"], "rule_option: 'gamma=much' is not NAME=NUMBER"),
        (["--accept", "fly", "--rule-option", "window=3.5"], "window cannot be 3.5: it is a whole number"),
        (["--rule-option", "gamma=0.1"], "nor the accept rule 'adasd' has an option 'gamma'"),
        (["--lossy-budget", "1", "--rule-option", "lossy_budget=2"], "rule_option: lossy_budget is given twice"),
        (["--timeout", "0"], "--timeout"),
        (["--endpoint", "here"], "--endpoint: 'here' is not an endpoint; write HOST:PORT"),
        (["--temprature", "1"], "--temprature"),
        (["--temperature"], "--temperature"),
        (["another"], "another"),
        (["--system", b"\xff", "--endpoint", CLOSED], "system: is not valid UTF-8"),
        (["--stop-text", b"\xff", "--endpoint", CLOSED], "stop_text: is not valid UTF-8"),
    ],
    ids=str,
)
def test_a_flag_that_cannot_be_used_is_one_line_that_names_it(
    flags: list[str | bytes], named: str, refused_here: Here
) -> None:
    assert named in refused_here("complete", "Hello", *flags)


@pytest.mark.parametrize("flags", [["--top-p", "0"], ["--max-tokens", "many"], ["--stop-text", b"\xff"]], ids=str)
def test_a_refused_process_leaves_one_line_and_exit_code_2(flags: list[str | bytes]) -> None:
    refusal(tandem("complete", "Hello", *flags))


@pytest.mark.parametrize(
    ("arguments", "stdin", "named"),
    [
        ([""], b"", "prompt: is empty"),
        (["-"], b"", "prompt: is empty"),
        ([b"\xff"], b"", "prompt: is not valid UTF-8"),
        (["-"], b"\xff\xfe", "prompt: is not valid UTF-8"),
        ([], b"", "Missing argument 'prompt'"),
    ],
    ids=str,
)
def test_a_prompt_that_cannot_be_used_is_one_line(arguments: list[str | bytes], stdin: bytes, named: str) -> None:
    assert named in refusal(tandem("complete", *arguments, stdin=stdin))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["demo", "--prompt", ""], "prompt: is empty"),
        (["demo", "--max-tokens", "0"], "--max-tokens"),
        (["up", "--port", "65536"], "--port"),
        (["up", "--threads", "0"], "--threads"),
        (["chat", "--accept", "all"], "unknown accept rule 'all'"),
        (["chat", "--endpoint", "here"], "--endpoint"),
        (["pull", "no/such/model"], "no/such/model does not exist"),
        (["pull", "embedded:unknown"], "there is no 'embedded:unknown'; embedded are embedded:smollm2"),
        (["donw"], "donw"),
    ],
    ids=str,
)
def test_the_other_commands_refuse_in_one_line_too(arguments: list[str], named: str, refused_here: Here) -> None:
    assert named in refused_here(*arguments)


@pytest.mark.parametrize("command", [["complete", "Hello"], ["demo"]], ids=str)
def test_an_orchestrator_that_is_not_there_is_named_and_how_to_start_one(command: list[str]) -> None:
    line = refusal(tandem(*command, "--endpoint", CLOSED))
    assert line == f"no orchestrator answers at {CLOSED}; start one with `tandem up`"


def test_the_orchestrator_may_be_named_by_a_variable() -> None:
    assert CLOSED in refusal(tandem("complete", "Hello", variables={"TANDEM_ENDPOINT": CLOSED}))


def test_a_model_that_cannot_be_fetched_is_one_line() -> None:
    line = refusal(tandem("pull", "nobody/nothing"))
    assert "'nobody/nothing' is no folder here and could not be fetched" in line


def test_a_cache_that_cannot_be_written_is_one_line_with_what_to_set() -> None:
    assert "set TANDEM_HOME" in refusal(tandem("pull", variables={"TANDEM_HOME": "/dev/null/models"}))


def test_a_listener_that_never_answers_does_not_outlast_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        line = refusal(tandem("complete", "Hello", "--endpoint", silent_endpoint, "--timeout", "0.3"))
    assert line.startswith("timeout: ")
