"""Runs one program that nobody has read; started by `sandbox.py`, which says what it prevents, as a process of its own.

Alone in its interpreter (`python -I -S`), so it imports the standard library only. It shuts itself in, tries whether
the doors are closed, runs the program, and reports in one line that begins with the token it was given.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import socket
import sys
from types import ModuleType
from typing import Any

_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2


class _Filter(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("count", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def main() -> None:
    order = json.loads(sys.stdin.buffer.read())
    token, report = order["token"], os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    try:
        failures = _shut_in(order)
        refusal = _open_door(failures)
    except Exception as error:  # whatever it is, what nobody has read must not run
        refusal = f"the sandbox failed: {error!r}"
    outcome = {"refused": refusal} if refusal else _run(order["program"])
    os.write(report, (token + json.dumps(outcome)).encode()[:4096])
    os._exit(0)  # nothing that the program left behind is run


def _shut_in(order: dict[str, Any]) -> list[str]:
    """Returns why a guard could not be put up, for each that could not."""
    for name, limit in order["limits"].items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    library = ctypes.CDLL(None, use_errno=True)
    failures = []
    if not order["namespaces"]:
        failures.append("no namespaces")
    elif library.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC):
        failures.append(f"no namespaces ({errno.errorcode[ctypes.get_errno()]})")
    if order["filter"] is None:
        failures.append("no filter of system calls")
    else:
        code = bytes.fromhex(order["filter"])
        program = _Filter(len(code) // 8, code)
        if library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or library.prctl(
            _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
        ):
            failures.append(f"no filter of system calls ({errno.errorcode[ctypes.get_errno()]})")
    return failures


def _open_door(failures: list[str]) -> str:
    """What a program could still do, found by trying; empty where it is shut in."""
    why = f": {', '.join(failures)}" if failures else ""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
            door.connect(("127.0.0.1", 9))  # sends nothing; without a network there is no way there
        return f"it could reach the network{why}"
    except OSError:
        pass
    try:
        child = os.fork()
    except OSError:
        return ""
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return f"it could start processes{why}"


def _run(program: str) -> dict[str, str]:
    module = ModuleType("candidate")
    sys.modules["candidate"] = module
    try:
        exec(compile(program, "<candidate>", "exec"), module.__dict__)
    except BaseException as error:  # SystemExit before the end of the tests is no pass
        return {"failed": type(error).__name__}
    return {"passed": ""}


main()
