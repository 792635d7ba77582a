"""`python -m draft_service`, `target_service`, `orchestrator`: what they refuse, and how signals end them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.cli.session import check_models
from tandem.rpc.errors import TandemError
from tests.cli.processes import SECONDS, environment, refusal, run, service, tandem


def refused(module: str, *flags: str | Path, variables: dict[str, str] | None = None) -> str:
    """The last line of a service that did not start; asserts that no trace comes before it and no log after it."""
    done = run(sys.executable, "-m", module, *flags, variables=variables)
    assert (done.returncode, done.stdout) == (2, "") and "Traceback" not in done.stderr, done.stderr
    *logs, line = done.stderr.splitlines()
    assert all(" INFO " in log for log in logs), done.stderr
    return line


@pytest.mark.parametrize(
    ("flags", "variables", "named"),
    [
        (["--port", "65536"], {}, "--port (TANDEM_ORCHESTRATOR_PORT) is '65536'"),
        ([], {"TANDEM_ORCHESTRATOR_PORT": "tcp://10.0.0.1:7000"}, "--port (TANDEM_ORCHESTRATOR_PORT) is 'tcp:"),
        (["--target", "here"], {}, "--target (TANDEM_ORCHESTRATOR_TARGET) is 'here': 'here' is not an endpoint"),
        (["--target", "a:1,b"], {}, "--target (TANDEM_ORCHESTRATOR_TARGET) is 'b': 'b' is not an endpoint"),
        (["--target", ""], {}, "--target (TANDEM_ORCHESTRATOR_TARGET) is '': names no endpoint; write HOST:PORT"),
        (["--target", "none"], {}, "--target (TANDEM_ORCHESTRATOR_TARGET) is 'none': 'none' is not an endpoint"),
        (["--resolve-seconds", "0"], {}, "--resolve-seconds (TANDEM_ORCHESTRATOR_RESOLVE_SECONDS) is '0'"),
        ([], {"TANDEM_ORCHESTRATOR_DRAFT": "here"}, "--draft (TANDEM_ORCHESTRATOR_DRAFT) is 'here'"),
        (["--log-level", "loud"], {}, "--log-level (TANDEM_ORCHESTRATOR_LOG_LEVEL) is 'loud'"),
        (["--tokenizer", ""], {}, "--tokenizer (TANDEM_ORCHESTRATOR_TOKENIZER) is ''"),
        (["--tokenizer", "./nowhere"], {}, "./nowhere does not exist; name a folder"),
        (["--prot", "1"], {}, "--prot"),
    ],
    ids=str,
)
def test_an_orchestrator_refuses_in_one_line(flags: list[str], variables: dict[str, str], named: str) -> None:
    line = refused("orchestrator", *flags, variables=variables)
    assert named in line and "orchestrator: " in line


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    line = refused("draft_service", variables={"TANDEM_DRAFT_MODEL": str(tmp_path / "none")})
    assert line.startswith(f"draft_service: {tmp_path / 'none'} does not exist")


@pytest.mark.parametrize("module", ["draft_service", "target_service"])
def test_turns_need_a_file_that_can_be_shared(module: str, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere" / "turns"):
        line = refused(module, "--turns", path)
        assert f"--turns (TANDEM_{module.partition('_')[0].upper()}_TURNS) is '{path}'" in line


@pytest.mark.parametrize(
    ("module", "model"), [("orchestrator", "TANDEM_ORCHESTRATOR_TOKENIZER"), ("target_service", "TANDEM_TARGET_MODEL")]
)
def test_a_taken_port_is_named(module: str, model: str, models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        line = refused(module, "--port", str(port), variables={model: str(models / "target")})
    assert line == f"{module}: port {port} on 127.0.0.1 is taken; choose another with --port (0 takes a free one)"


def _spoilt(models: Path, folder: Path) -> Path:
    return Path(shutil.copytree(models / "target", folder / "spoilt"))


def test_a_broken_tokenizer_is_one_line(models: Path, tmp_path: Path) -> None:
    model = _spoilt(models, tmp_path)
    (model / "tokenizer.json").write_text("{")
    assert refused("orchestrator", "--tokenizer", model).startswith(f"orchestrator: {model} has no tokenizer.json")


def test_a_service_that_does_not_start_is_one_line_of_the_command(models: Path, tmp_path: Path) -> None:
    model = _spoilt(models, tmp_path)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    line = refusal(tandem("complete", "Hello", "--target-model", model, "--draft-model", "none"))
    assert line.startswith("the target service did not start: target_service: spoilt: its weights cannot be read")


def test_a_draft_that_does_not_fit_is_one_line_that_names_both(models: Path, target: str) -> None:
    with (
        service("draft_service", "--model", models / "other") as draft,
        service(
            "orchestrator", "--target", target, "--draft", f"127.0.0.1:{draft}", "--tokenizer", models / "target"
        ) as port,
    ):
        line = refusal(tandem("complete", "Hello", "--endpoint", f"127.0.0.1:{port}"))
        with pytest.raises(TandemError) as caught:  # as `tandem up` asks, before it says that all is up
            check_models(f"127.0.0.1:{port}")
    assert line.startswith("draft other (") and "target target (" in line and "tokenizers" in line
    assert caught.value.reason == "TOKENIZER_MISMATCH"


def started(module: str, *flags: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, "--port", "0", *flags],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_service_that_listens_with_exit_code_0(models: Path, number: signal.Signals) -> None:
    process = started("orchestrator", "--tokenizer", models / "target")
    assert process.stderr is not None and "listening on" in process.stderr.readline()
    process.send_signal(number)
    output, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, output) == (0, "") and errors.rstrip().endswith("stopped")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_model_is_read_ends_the_service_without_a_trace(
    models: Path, tmp_path: Path, number: signal.Signals
) -> None:
    model = tmp_path / "model"
    shutil.copytree(models / "target", model)
    (model / "tokenizer_config.json").unlink()
    os.mkfifo(model / "tokenizer_config.json")
    process = started("orchestrator", "--tokenizer", model)
    with open(model / "tokenizer_config.json", "w"):  # opens once the service does, which then waits for its content
        process.send_signal(number)
        output, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, output, errors) == (128 + number, "", "")
