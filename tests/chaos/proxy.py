"""`python -m tests.chaos.proxy`: all links of a run, in a process of its own, so that they delay nobody by accident.

Reads commands from stdin and writes what happened to stdout, JSON by lines; ends when stdin does:

    {"link": NAME, "do": "open"}                  answered by {"link": NAME, "port": PORT}
    {"link": NAME, "do": "lead", "to": PORT}      where the service is; null: nowhere
    {"link": NAME, "do": "change", "weather": {}} fields of `Weather`; none is fine weather
    {"link": NAME, "do": "cut"}                   or "half_close"

Each is answered by {"link": NAME, "done": true}. Besides, {"link": NAME, "seen": REQUEST, "at": TIME} says that the
name of a request has passed; times are those of `time.monotonic`, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

from tests.chaos.link import Link, Weather


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class Proxy:
    def __init__(self) -> None:
        self._links: dict[str, Link] = {}

    async def obey(self, command: dict[str, Any]) -> None:
        name, do = command["link"], command["do"]
        if do == "open":
            link = Link(lambda request: _say({"link": name, "seen": request, "at": time.monotonic()}))
            self._links[name] = link
            _say({"link": name, "port": link.port})
            return
        link = self._links[name]
        if do == "lead":
            await link.lead_to(command["to"])
        elif do == "change":
            await link.change(Weather(**command["weather"]))
        elif do == "cut":
            link.cut()
        elif do == "half_close":
            link.half_close()
        else:
            raise ValueError(f"no command: {do}")
        _say({"link": name, "done": True})


async def serve() -> None:
    reader, loop = asyncio.StreamReader(limit=1 << 20), asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(0, "rb", 0))
    proxy = Proxy()
    while line := await reader.readline():
        await proxy.obey(json.loads(line))


if __name__ == "__main__":
    asyncio.run(serve())
