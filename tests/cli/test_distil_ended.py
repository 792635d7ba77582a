"""`tandem distil` ended in any way and run again: the same draft as one made in one go, to the last byte."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.cli.processes import SECONDS, Running, running, tandem
from tests.cli.test_distil import made, maker  # noqa: F401 (fixtures)


def until(command: Running, there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not there():
        assert command.process.poll() is None, command.process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_killed_and_interrupted_it_comes_to_the_same(maker: Path, made: tuple) -> None:  # noqa: F811
    whole, folder = made[0], maker / "ended"
    work = folder / "work"
    flags = ["distil", "--recipe", maker / "recipe.toml", "--out", folder]

    with running(*flags) as command:  # killed while the target answers
        until(command, lambda: (work / "answers/shard-00000.safetensors").exists())
        os.kill(command.process.pid, signal.SIGKILL)
        assert command.end() == -signal.SIGKILL
    assert not (work / "training").exists()

    with running(*flags) as command:  # killed while the draft learns
        until(command, lambda: any((work / "training").glob("step-*.safetensors")))
        os.kill(command.process.pid, signal.SIGKILL)
        assert command.end() == -signal.SIGKILL
    assert not (folder / "config.json").exists()

    with running(*flags) as command:  # Ctrl-C, which keeps what was done
        command.read_until("training: ")
        command.press_ctrl_c()
        assert command.end() == 130
    assert f"go on with: tandem distil --out {folder}\n" in command.errors
    assert "Traceback" not in command.errors

    done = tandem("distil", "--out", folder, "--curve")
    assert done.returncode == 0, done.stderr
    for name in ("metrics.json", "layers.int8.safetensors", "vocabulary.safetensors", "config.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    ours, theirs = ((each / "README.md").read_text() for each in (folder, whole))
    assert ours == theirs
