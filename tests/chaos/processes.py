"""One service as a real process: started on free ports, killed, stopped, drained, and read from /proc."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.forks import Fork, Starter

_PAGE = os.sysconf("SC_PAGE_SIZE")
#: Against hanging only: a start imports much, on cores that others use, too.
START_SECONDS = 300.0


class ServiceFailed(Exception):
    """A service did not start, or did not end as it should."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Of one process, now."""

    descriptors: int
    threads: int
    resident: int

    @classmethod
    def of(cls, pid: int) -> Resources:
        folder = Path("/proc") / str(pid)
        resident = int((folder / "statm").read_text().split()[1]) * _PAGE
        return cls(len(os.listdir(folder / "fd")), len(os.listdir(folder / "task")), resident)


class Process:
    """`python -m MODULE FLAGS`, in one life after another. name: as faults call it, `target1`.

    In a process group of its own, which a Ctrl-C does not reach; and it ends by itself when this process does: that
    holds the other end of the socket that it says its ports on, and its starter ends those that stand still.
    """

    def __init__(self, name: str, module: str, flags: list[str], logs: Path, starter: Starter) -> None:
        self.name = name
        self.module = module
        self.ports: list[int] = []
        self.lives = 0
        self._flags = flags
        self._logs = logs
        self._starter = starter
        self._process: Fork | None = None
        self._lifeline: socket.socket | None = None
        self.is_stopped = False
        self.may_end = True  # its end is what somebody asked for

    @property
    def kind(self) -> str:
        return self.name.rstrip("0123456789")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        """Of this life."""
        return self._logs / f"{self.name}.{self.lives}.log"

    async def start(self) -> None:
        """Returns once it listens; `ports` has where. Raises ServiceFailed."""
        self.lives += 1
        self.is_stopped = False
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        flags = [*self._flags, "--port", "0"]
        with theirs, open(self.log, "wb") as log:
            self._process = await self._starter.start(self.module, flags, theirs.fileno(), log.fileno())
        self.may_end = False
        if self._lifeline is not None:
            self._lifeline.close()
        self._lifeline = ours
        # The orchestrator says its HTTP port, too, on a line of its own.
        wanted = 2 if self.kind == "orchestrator" else 1
        said = b""
        try:
            async with asyncio.timeout(START_SECONDS):
                while said.count(b"\n") < wanted:
                    data = await asyncio.get_running_loop().sock_recv(ours, 64)
                    if not data:
                        raise ServiceFailed(f"{self.name} ended before it listened; see {self.log}")
                    said += data
        except TimeoutError:
            raise ServiceFailed(f"{self.name} did not listen within {START_SECONDS:g} s; see {self.log}") from None
        self.ports = [int(line) for line in said.split()]

    def signal(self, number: signal.Signals) -> None:
        if self.is_running:
            os.kill(self.pid, number)

    def stop(self) -> None:
        self.is_stopped = True
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.is_stopped = False
        self.signal(signal.SIGCONT)

    async def kill(self) -> None:
        """Gone when it returns."""
        self.may_end = True
        self.signal(signal.SIGKILL)
        await self.ended(30)

    async def ended(self, seconds: float) -> int | None:
        """Its exit code; None where it is still there after so long."""
        assert self._process is not None
        for _ in range(int(seconds * 50)):
            if (code := self._process.poll()) is not None:
                return code
            await asyncio.sleep(0.02)
        return self._process.poll()

    def resources(self) -> Resources:
        return Resources.of(self.pid)

    async def close(self) -> None:
        """Whatever it is doing."""
        if self._process is not None:
            await self.kill()
        if self._lifeline is not None:
            self._lifeline.close()
