"""`python -m tests.support.tiny_orchestrator TARGET DRAFT [PORT]`: an orchestrator as a process of its own, before
services of tiny models. Prints its port once it can complete."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.tokens import byte_tokenizer

#: As of `tests.support.fleet`, which is not imported here: it needs torch.
VOCABULARY = 64


async def serve(target: str, draft: str, port: int) -> None:
    from orchestrator.completions import Completions
    from orchestrator.server import completion_service
    from orchestrator.settings import OrchestratorSettings
    from orchestrator.upstream import Upstream
    from tandem.rpc.server import Server

    settings = OrchestratorSettings(target=target, draft=draft)
    upstream = Upstream(settings.target, settings.draft, connect_timeout_seconds=10.0)
    completions = Completions(byte_tokenizer(VOCABULARY), upstream, settings)
    server = Server(port=port)
    async with completion_service(server, completions, upstream), server:
        while upstream.count("target", "ready") + upstream.count("draft", "ready") < 2:
            await asyncio.sleep(0.01)
        print(server.port, flush=True)
        await asyncio.Event().wait()


@contextmanager
def tiny_orchestrator(target: str, draft: str, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its endpoint; killed at the end. Blocks until it serves."""
    command = [sys.executable, "-m", "tests.support.tiny_orchestrator", target, draft, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, "the orchestrator did not start"
        yield process, f"127.0.0.1:{int(line)}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], int(sys.argv[3])))
