"""`bench serve`: its options, and the command on real services."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.__main__ import app
from bench.policies import ALONE, GOODPUT, VANILLA
from bench.prompts import Prompt
from bench.serve import compare
from bench.serve.loops import Load
from bench.serve.options import Options
from tests.cli import processes
from tests.cli.conftest import models as models  # a fixture

PROMPTS = [Prompt("text", str(number), f"prompt number {number}", raw=True) for number in range(5)]


def test_options_are_what_their_defaults_promise() -> None:
    assert [load.clients for load in Options().loads()] == [1, 2, 4, 8, 16]
    assert Options(rate=[2.0]).loads() == [Load(rate=2.0)]
    assert Options(rate=[2.0], clients=[4, 1, 4]).loads() == [Load(clients=1), Load(clients=4), Load(rate=2.0)]
    assert list(Options().policies()) == [ALONE, VANILLA, "AdaSD v1", GOODPUT]
    assert list(Options(policy=[GOODPUT], sweep=True).policies()) == [ALONE, GOODPUT, *compare.FIXED]
    assert (Options().scale().repetitions, Options(check=True).scale().repetitions) == (1, 5)
    assert Options(check=True, repeat=7).scale().repetitions == 7
    fixed = {name: policy.stop.max_tokens for name, policy in compare.FIXED.items()}
    assert fixed == {f"fixed, {length}": length for length in (1, 2, 3, 5, 8, 12)}
    assert all(policy.accept.WhichOneof("rule") == "exact" for policy in compare.FIXED.values())


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--policy", "magic"], "magic"), (["--check", "--repeat", "4"], "--repeat"), (["--rate", "0"], "--rate"),
        (["--draft-model", "none"], "--draft-model"), (["--clients", "65"], "--clients"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"), (["--json", "nowhere/file.json"], "nowhere"),
    ],
)  # fmt: skip
def test_flags_that_cannot_be_used_are_named(flags: list[str], named: str) -> None:
    done = CliRunner().invoke(app, ["serve", *flags])
    assert (done.exit_code, done.stdout) == (2, "") and named in done.stderr


def of_tiny_models(models: Path, tmp_path: Path) -> list[str | Path]:
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"text": prompt.text}) + "\n" for prompt in PROMPTS))
    return [
        "--target-model", models / "target", "--draft-model", models / "draft", "--dtype", "float32", "--threads", "1",
        "--data", data, "--max-tokens", "6",
    ]  # fmt: skip


def test_the_command_measures_real_services_and_writes_what_it_found(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "serve.json"
    flags = ["--policy", VANILLA, "--clients", "1", "--clients", "3", "--rate", "20", "--seconds", "0.5"]
    flags += ["--repeat", "2", "--json", str(path)]
    done = processes.run(sys.executable, "-m", "bench", "serve", *of_tiny_models(models, tmp_path), *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"| {VANILLA} ") == 3 + 2  # at each load, and where it stops paying, for each kind
    assert "4 not measured" in done.stdout.splitlines()[-1]
    document = json.loads(path.read_text())
    assert document["bench"] == "serve" and document["options"]["clients"] == [1, 3]
    points = document["data"]["points"]
    assert {(point["kind"], point["load"]) for point in points} == {("closed", 1), ("closed", 3), ("open", 20)}
    for point in points:
        assert point["requests"] > 0 == point["failed"] and point["tokens_per_second"] > 0
        assert point["seconds"] > 0.99  # of both repetitions
        assert point["first_token_ms"]["p50"] <= point["latency_ms"]["p50"] <= point["latency_ms"]["p99"]
        assert (point["over_alone"] is None) == (point["policy"] == ALONE)
    assert all(len(point["over_alone"]["values"]) == 2 for point in points if point["policy"] == VANILLA)


def test_ctrl_c_ends_the_bench_and_its_services(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "TANDEM", sys.executable)
    flags = of_tiny_models(models, tmp_path) + ["--policy", VANILLA, "--clients", "2", "--seconds", "1000"]
    with processes.running("-m", "bench", "serve", *flags) as command:
        while len(command.offspring()) < 3 and command.process.poll() is None:
            time.sleep(0.05)
        time.sleep(1.0)  # into the load, or nearly: it must make no difference
        command.press_ctrl_c()
        assert command.end() == 130
        assert command.offspring() == {} and "Traceback" not in command.errors, command.errors
