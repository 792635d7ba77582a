"""`tandem up` and commands that start services for themselves: nothing they start outlives them."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.cli.conftest import CONTEXT
from tests.cli.processes import SECONDS, Running, refusal, running, tandem

FREE = ["--port", "0", "--draft-port", "0", "--target-port", "0", "--http-port", "0"]
SIGNALS = [signal.SIGINT, signal.SIGTERM]


def send(command: Running, number: signal.Signals) -> None:
    """SIGINT as a terminal sends it, to the whole group; SIGTERM as a supervisor does, to the command alone."""
    if number is signal.SIGINT:
        command.press_ctrl_c()
    else:
        command.process.send_signal(number)


def endpoint_of(command: Running) -> str:
    """Waits until all is up."""
    found = re.search(r"Tandem is up at (\S+) ", command.read_until("Tandem is up"))
    assert found is not None
    return found[1]


def assert_nothing_left(command: Running) -> None:
    assert command.offspring() == {}
    assert "Traceback" not in command.errors, command.errors


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_models_load_stops_what_was_started(models: Path, number: signal.Signals) -> None:
    with running("up", *FREE, "--target-model", models / "target", "--draft-model", models / "draft") as command:
        while len(command.offspring()) < 2 and command.process.poll() is None:
            time.sleep(0.01)
        send(command, number)
        assert command.end() == 128 + number
        assert_nothing_left(command)


def test_ctrl_c_stops_all_three_in_order(models: Path) -> None:
    with running("up", *FREE, "--target-model", models / "target", "--draft-model", models / "draft") as command:
        endpoint_of(command)
        assert len(command.offspring()) == 3
        command.press_ctrl_c()
        assert command.end() == 130
        assert_nothing_left(command)
    # The terminal's signal reaches the command alone, which stops the services.
    assert "SIGINT" not in command.errors and command.errors.count("SIGTERM: draining") == 3, command.errors
    assert command.errors.count(" stopped\n") == 3, command.errors


def test_a_second_ctrl_c_leaves_nothing_behind_either(models: Path) -> None:
    with running("up", *FREE, "--target-model", models / "target", "--draft-model", "none") as command:
        endpoint_of(command)
        command.press_ctrl_c()
        command.read_until("draining")
        command.press_ctrl_c()
        # As an exit code, or by the signal itself where the second one came when all else was done.
        assert command.end() in (130, -signal.SIGINT)
        assert_nothing_left(command)


def test_termination_in_a_completion_stops_the_services_it_started(models: Path) -> None:
    flags = ["--target-model", models / "target", "--draft-model", "none", "--ignore-end"]
    with running("complete", "Hello", *flags, "--max-tokens", str(CONTEXT // 2)) as command:
        assert command.process.stdout is not None and command.process.stdout.read(1)
        assert len(command.offspring()) == 2
        send(command, signal.SIGTERM)
        assert command.end() == 143
        assert_nothing_left(command)


def test_two_side_by_side_do_not_meet_and_a_crash_in_one_is_reported_and_ends_it_alone(models: Path) -> None:
    flags = [*FREE, "--target-model", models / "target", "--draft-model", "none"]
    with running("up", *flags) as broken, running("up", *flags) as whole:
        first, second = endpoint_of(broken), endpoint_of(whole)
        assert first != second
        os.kill(broken.pid_of("target_service"), signal.SIGKILL)
        assert broken.end() == 2
        assert broken.errors.endswith("tandem: the target service ended by itself (signal 9); its log is above\n")
        assert_nothing_left(broken)
        assert len(whole.offspring()) == 2
        assert tandem("complete", "Hello", "--endpoint", second, "--max-tokens", "3").returncode == 0
        assert "no orchestrator answers" in refusal(tandem("complete", "Hello", "--endpoint", first))
        send(whole, signal.SIGTERM)
        assert whole.end() == 143
        assert_nothing_left(whole)


@pytest.mark.parametrize("moment", ["up", "loading"])
def test_services_do_not_outlive_a_command_that_was_killed(models: Path, moment: str) -> None:
    with running("up", *FREE, "--target-model", models / "target", "--draft-model", models / "draft") as command:
        if moment == "up":
            endpoint_of(command)
        else:
            while len(command.offspring()) < 2:
                time.sleep(0.01)
        command.process.kill()
        deadline = time.monotonic() + SECONDS
        while command.offspring() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert_nothing_left(command)


def test_a_draft_that_cannot_be_had_is_said_while_the_target_still_loads(models: Path) -> None:
    with running("up", *FREE, "--target-model", models / "target", "--draft-model", "./nowhere") as command:
        assert command.end() == 2
        assert_nothing_left(command)
    assert command.errors.splitlines()[-1].startswith("tandem: the draft service did not start: ")


def test_a_taken_port_is_named_before_anything_is_started(models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        flags = ["--port", str(port), "--target-port", "0", "--http-port", "none", "--target-model", models / "target"]
        with running("up", *flags, "--draft-model", "none") as command:
            assert command.end() == 2
            assert_nothing_left(command)
    advice = "choose another with --port (0 takes a free one)"
    assert command.errors == f"tandem: port {port} on 127.0.0.1 is taken; {advice}\n"


def test_ctrl_c_in_the_demo_leaves_nothing_behind() -> None:
    """With the embedded pair, as a new user meets it."""
    with running("demo", "--max-tokens", "1000") as command:
        assert command.process.stdout is not None
        assert "embedded:smollm2-draft proposes, target embedded:smollm2" in command.process.stdout.readline()
        command.press_ctrl_c()
        assert command.end() == 130
        assert_nothing_left(command)
