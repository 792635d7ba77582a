"""The command and the services as real processes: started, watched, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

#: Only against hanging: nothing here should take a tenth of it.
SECONDS = 120.0

TANDEM = Path(sys.executable).parent / "tandem"

_MARK = "TANDEM_TEST_MARK"
_KEPT = ("TANDEM_HOME", "TANDEM_SMOLLM2_WHEEL")


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's, without what would change how Tandem behaves. variables: added to it."""
    unwanted = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "PYTHONIOENCODING", "PYTHONUTF8")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in unwanted and (not name.startswith("TANDEM_") or name in _KEPT)
    }
    fixed = {"OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8", "HF_HUB_OFFLINE": "1"}
    fixed["TANDEM_ORCHESTRATOR_HTTP_PORT"] = "none"  # tests run side by side
    fixed["TANDEM_ORCHESTRATOR_DRAFT_PATIENCE_SECONDS"] = "5"  # and keep each other's drafts from their cores
    return kept | fixed | dict(variables or {})


def run(
    *command: str | Path | bytes, stdin: bytes = b"", variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; its output as text."""
    done = subprocess.run(
        command, input=stdin, capture_output=True, env=environment(variables), timeout=SECONDS, check=False
    )
    encoding = {"encoding": "utf-8", "errors": "surrogateescape"}
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(**encoding), done.stderr.decode())


def tandem(
    *arguments: str | Path | bytes, stdin: bytes = b"", variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return run(TANDEM, *arguments, stdin=stdin, variables=variables)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a refused command leaves; asserts that there is nothing else and that the exit code is 2."""
    assert (done.returncode, done.stdout) == (2, ""), done
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("tandem: "), done.stderr
    return lines[0].removeprefix("tandem: ")


class Running:
    """A command in a process group of its own, as a terminal starts it, and all that it starts."""

    def __init__(self, *arguments: str | Path) -> None:
        self._mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [TANDEM, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment({_MARK: self._mark}),
            text=True,
            start_new_session=True,
        )
        self.errors = ""

    def press_ctrl_c(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def read_until(self, text: str) -> str:
        """The line of stderr that has `text`."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors += line
            if text in line:
                return line
        raise AssertionError(f"ended before it said {text!r}: {self.errors}")

    def end(self) -> int:
        """Waits for its end; returns the exit code. `errors` has all of stderr then."""
        _, rest = self.process.communicate(timeout=SECONDS)
        self.errors += rest
        return self.process.returncode

    def offspring(self) -> dict[int, str]:
        """Command lines of living processes that it started, by pid: they have its environment."""
        found = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit() or int(folder.name) == self.process.pid:
                continue
            try:
                marked = self._mark.encode() in (folder / "environ").read_bytes()
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # ended meanwhile, or another user's
                continue
            if marked and command:
                found[int(folder.name)] = command
        return found

    def pid_of(self, module: str) -> int:
        (pid,) = (pid for pid, command in self.offspring().items() if f"-m {module} " in command)
        return pid


@contextmanager
def running(*arguments: str | Path) -> Iterator[Running]:
    """`tandem ARGUMENTS`; on the way out, whatever is left of it is killed."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("finds a command's processes by /proc")
    command = Running(*arguments)
    # A deadline for reads too: a pipe has none of its own.
    with _deadline(command.process.kill):
        try:
            yield command
        finally:
            command.process.kill()
            for pid in command.offspring():
                os.kill(pid, signal.SIGKILL)
            command.process.communicate()


@contextmanager
def service(module: str, *flags: str | Path) -> Iterator[int]:
    """`python -m MODULE` as one starts it by hand, on a free port; gives the port."""
    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--port", "0", "--ready-fd", str(write_end), *flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(),
        pass_fds=[write_end],
    )
    os.close(write_end)
    with _deadline(process.kill), os.fdopen(read_end) as ready:
        line = ready.readline()
    try:
        assert line, process.communicate()[1].decode()
        yield int(line)
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0 and b"Traceback" not in errors, errors.decode()


@contextmanager
def _deadline(act: Callable[[], object]) -> Iterator[None]:
    timer = threading.Timer(SECONDS, act)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
