"""The links of a run as the test steers them, and which requests have gone where."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import asdict
from typing import Any

from tests.chaos.link import Weather


class Links:
    """Steers the process of the links. As an async context manager it starts and ends it."""

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}
        #: Of each request, when its name was seen on which link, in order.
        self.seen: dict[str, list[tuple[float, str]]] = defaultdict(list)
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._turn = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Links:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.chaos.proxy", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=dict(os.environ), process_group=0, limit=1 << 20,
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._reading is not None:
            self._reading.cancel()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def open(self, name: str) -> int:
        """The port of a new link."""
        self.ports[name] = (await self._tell(link=name, do="open"))["port"]
        return self.ports[name]

    async def lead(self, name: str, port: int | None) -> None:
        await self._tell(link=name, do="lead", to=port)

    async def change(self, name: str, weather: Weather) -> None:
        await self._tell(link=name, do="change", weather=asdict(weather))

    async def cut(self, name: str) -> None:
        await self._tell(link=name, do="cut")

    async def half_close(self, name: str) -> None:
        await self._tell(link=name, do="half_close")

    def place_of(self, request: str, kind: str, at: float) -> str | None:
        """The service of `kind` at which a request was last opened before `at`."""
        found = None
        for when, link in self.seen.get(request, ()):
            service = link.partition(">")[2]
            if when <= at and service.startswith(kind):
                found = service
        return found

    async def _tell(self, **command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        async with self._turn:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            await self._process.stdin.drain()
            answer = await self._answers.get()
        if not answer:
            raise RuntimeError("the process of the links has ended")
        return answer

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            message = json.loads(line)
            if "seen" in message:
                self.seen[message["seen"]].append((message["at"], message["link"]))
            else:
                self._answers.put_nowait(message)
        self._answers.put_nowait({})
