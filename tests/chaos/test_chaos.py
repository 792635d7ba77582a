"""A minute of chaos: real processes, real faults, and nothing wrong, lost, hung or leaked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.processes import environment

ROOT = Path(__file__).parents[2]
#: Against hanging only.
SECONDS = 600.0


def chaos(*flags: str) -> list[str]:
    return [sys.executable, "-m", "tests.chaos", *flags]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="finds what processes hold by /proc")
def test_a_minute_of_chaos_is_survived() -> None:
    flags = ["--minutes", "1", "--seed", "7", "--callers", "6"]
    done = subprocess.run(chaos(*flags), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="finds what processes hold by /proc")
def test_ctrl_c_ends_a_run_with_what_there_is_and_leaves_nobody_behind() -> None:
    process = subprocess.Popen(
        chaos("--minutes", "5", "--callers", "2"), cwd=ROOT, env=environment({"CHAOS_TEST": str(os.getpid())}),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("starting"):
                break
        os.killpg(process.pid, signal.SIGINT)
        out, errors = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, said + out + errors
    assert "interrupted" in out and "Traceback" not in errors
    assert _offspring(f"CHAOS_TEST={os.getpid()}".encode()) == []


def _offspring(mark: bytes) -> list[str]:
    """Command lines of living processes that have `mark` in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            marked = mark in (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes()
        except OSError:  # ended meanwhile, or another user's
            continue
        if marked and command:
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found
