"""Processes that the starter forks, as this process sees them."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path

from tests.cli.processes import environment

_BYTES = 1 << 16


class Fork:
    """As much of a `Popen` as is needed: the starter is its parent, and tells of its end."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode


class Starter:
    """An async context manager: the starter's process, and with its end that of all that it has started.

    kind: `models` or `orchestrator`. log: its own.
    """

    def __init__(self, kind: str, log: Path) -> None:
        self._kind = kind
        self._log = log
        self._forks: dict[int, Fork] = {}
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._imported = asyncio.Event()

    async def __aenter__(self) -> Starter:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        with theirs, open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.starter", str(theirs.fileno()), self._kind],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[theirs.fileno()], process_group=0,
                env=environment({"PYTHONFAULTHANDLER": "1"}),
            )  # fmt: skip
        asyncio.get_running_loop().add_reader(self._control, self._read)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        try:
            await asyncio.to_thread(self._process.wait, 10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    async def start(self, module: str, flags: list[str], ports: int, log: int) -> Fork:
        """ports, log: descriptors for it; they may be closed afterwards."""
        await self._imported.wait()
        started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(started)
        socket.send_fds(self._control, [json.dumps({"start": [module, *flags]}).encode()], [ports, log])
        pid = await started
        return self._forks[pid]

    def _read(self) -> None:
        try:
            data = self._control.recv(_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # it has ended, and with it all that it started
            asyncio.get_running_loop().remove_reader(self._control)
            for fork in self._forks.values():
                fork.returncode = fork.returncode if fork.returncode is not None else -9
            for waiting in self._waiting:
                waiting.cancel()
            return
        message = json.loads(data)
        if "pid" in message:
            self._forks[message["pid"]] = Fork(message["pid"])
            self._waiting.popleft().set_result(message["pid"])
        elif "ended" in message:
            self._forks[message["ended"]].returncode = message["code"]
        else:
            self._imported.set()
