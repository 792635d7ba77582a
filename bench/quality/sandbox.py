"""Runs programs that nobody has read, which is what a model writes, and says whether they ran to their end.

Each runs in a process, a session and an empty directory of its own, in a Python of its own without its environment,
its packages and the caller's files open (`-I -S`), and is killed when its time is over.

What is prevented, on Linux on x86_64 and aarch64, by the filter of `seccomp.py` alone: sockets of any kind, processes
and threads, signals to other processes, changing any file, in its own directory too. A namespace of its own for users,
network and System V IPC stands behind that wherever the kernel permits one. Limits hold for CPU time, wall time,
address space, open files; files cannot grow. Where there is no filter (another processor), the namespaces have to keep
the network out, the limit on processes works only for a user other than root, and files that the user may delete or
empty are not safe. What could still reach the network or start a process, which the sandbox tries each time before it
lets the program in, is refused.

What is not prevented: reading what the user may read, which it cannot send anywhere; using a core for its time. A pass
is a line that begins with a random token and that is written when the tests are over, so that ending early, with
whatever code, is a failure. A program made to deceive, which searches the interpreter for the token or whose result
claims to equal everything, could fake one; models that were asked for a function do not write those.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.quality.seccomp import filter_for

_JAIL = Path(__file__).parent / "jail.py"
_MOST_ANSWER = 4096  # bytes that a pipe takes as one


@dataclass(frozen=True, slots=True)
class Limits:
    """wall_seconds: after which it is killed, whatever it waits for. memory_bytes: of address space."""

    wall_seconds: float = 10.0
    cpu_seconds: int = 5
    memory_bytes: int = 1 << 30

    def as_resources(self) -> dict[str, int]:
        return {
            "RLIMIT_CPU": self.cpu_seconds,
            "RLIMIT_AS": self.memory_bytes,
            "RLIMIT_FSIZE": 0,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_NPROC": 0,
            "RLIMIT_CORE": 0,
        }


@dataclass(frozen=True, slots=True)
class Guards:
    """Which walls to put up; all but in tests."""

    namespaces: bool = True
    filter: bool = True


_LIMITS, _GUARDS = Limits(), Guards()


class Outcome(enum.Enum):
    PASSED = "passed"
    FAILED = "failed"
    #: It was not run: it could not have been kept in.
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Verdict:
    """why: it failed or was refused; the exception's name, or how it ended."""

    outcome: Outcome
    why: str = ""


def run_program(program: str, limits: Limits = _LIMITS, guards: Guards = _GUARDS) -> Verdict:
    """Whether `program` runs to its end without an exception. Nothing of it is left afterwards."""
    if sys.platform != "linux":
        return Verdict(Outcome.REFUSED, f"there is no sandbox on {sys.platform}")
    token = secrets.token_hex(16)
    instructions = filter_for(os.uname().machine) if guards.filter else None
    order = {
        "token": token,
        "program": program,
        "limits": limits.as_resources(),
        "namespaces": guards.namespaces,
        "filter": instructions.hex() if instructions is not None else None,
    }
    with tempfile.TemporaryDirectory(prefix="tandem-candidate-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(_JAIL)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        try:
            answer = _exchange(process, json.dumps(order).encode(), limits.wall_seconds)
        finally:
            code = _end(process)
    return _read(answer, token, code)


def why_not(guards: Guards = _GUARDS) -> str | None:
    """Why programs are not run here; None where they are."""
    verdict = run_program("1 + 1", guards=guards)
    return None if verdict.outcome is Outcome.PASSED else verdict.why


def _exchange(process: subprocess.Popen[bytes], order: bytes, seconds: float) -> bytes | None:
    """The first piece of the answer, which is all of it; empty where it ended without one, None out of time."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(order)
        process.stdin.close()
    except BrokenPipeError:  # it ended before it had read
        return b""
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    return os.read(process.stdout.fileno(), _MOST_ANSWER) if ready else None


def _end(process: subprocess.Popen[bytes]) -> int:
    """Kills all of its session; returns the exit code, negative for a signal's."""
    os.killpg(process.pid, signal.SIGKILL)  # it has not been waited for, so the number is still its
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(BrokenPipeError):  # what it did not read of the order
            if stream is not None:
                stream.close()
    return process.wait()


def _read(answer: bytes | None, token: str, code: int) -> Verdict:
    if answer is None:
        return Verdict(Outcome.FAILED, "out of time")
    if not answer.startswith(token.encode()):
        ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Verdict(Outcome.FAILED, f"ended before its tests did ({ending})")
    ((outcome, why),) = json.loads(answer[len(token) :]).items()
    return Verdict(Outcome(outcome), why)
