"""`python -m tests.chaos.starter FD models`, or `orchestrator`: starts services that need not import all first.

Imports once what they import (torch in the one, and not in the other), and forks: what runs in the new process is
`python -m MODULE`, with its own flags, log and process group. Seconds of a processor for each start would slow down
everything that a run measures.

Takes commands from the socket FD as JSON, each with two descriptors: what to say the ports on, and the log. Answers
with {"pid": PID}, and tells {"ended": PID, "code": CODE} of each process that ends. Ends when the socket does, and ends
its processes then, also those that stand still.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from contextlib import suppress

from tandem.serving import prepare_for_models

_BYTES = 1 << 16


# What the services of a kind import by and by.
_IMPORTS = {
    "models": (
        "transformers.models.llama.modeling_llama", "draft_service.__main__", "draft_service.drafters.model",
        "draft_service.server", "tandem.inference.serving", "target_service.__main__", "target_service.server",
    ),
    "orchestrator": ("orchestrator.__main__",),
}  # fmt: skip


def serve(control: socket.socket) -> None:
    processes: set[int] = set()
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes)
    control.send(b"{}")
    while True:
        waiting: list[socket.socket | int] = [control, woken]
        ready, _, _ = select.select(waiting, [], [])
        if woken in ready:
            os.read(woken, 512)
        if control in ready:
            data, descriptors, _, _ = socket.recv_fds(control, _BYTES, 2)
            if not data:
                break
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                control.close()
                become(json.loads(data), *descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            processes.add(pid)
            control.send(json.dumps({"pid": pid}).encode())
        for pid in list(processes):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                processes.discard(pid)
                control.send(json.dumps({"ended": pid, "code": os.waitstatus_to_exitcode(status)}).encode())
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def become(command: dict[str, list[str]], ports: int, log: int) -> None:
    """The service that was asked for; does not return."""
    os.setpgid(0, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.set_inheritable(ports, True)
    module, *flags = command["start"]
    sys.argv = [module, *flags, "--ready-fd", str(ports)]
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    prepare_for_models()
    for name in _IMPORTS[sys.argv[2]]:
        importlib.import_module(name)
    serve(socket.socket(fileno=int(sys.argv[1])))
