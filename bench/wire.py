"""What one exchange between two processes costs by itself: bare grpc.aio, no model, nothing of Tandem in it.

The server does what a service's engine does, on a thread: it reads as many bytes as a model has weights, which leaves
nothing of the program in the processor's caches, or sleeps for as long. What a message costs after that is the floor
of "everything else" in a round, which has two exchanges.
"""

from __future__ import annotations

import asyncio
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import grpc

_METHOD = "/tandem.bench.Wire/Exchange"
_PAUSE = 0.03
_MESSAGE = b"x" * 400


@dataclass(frozen=True, slots=True)
class Exchange:
    """Medians in milliseconds: message to the server, from its working thread back to its loop, to the client."""

    to_server: float
    thread_to_loop: float
    to_client: float

    @property
    def total(self) -> float:
        return self.to_server + self.thread_to_loop + self.to_client


def measure(megabytes: int, count: int = 100) -> Exchange:
    """Exchanges with a server process whose thread reads `megabytes` between messages; 0: it sleeps."""
    command = [sys.executable, "-m", "bench.wire", str(megabytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            return asyncio.run(_exchange(int(server.stdout.readline()), count))
        finally:
            server.terminate()


async def _exchange(port: int, count: int) -> Exchange:
    samples: list[tuple[float, float, float]] = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream(_METHOD)()
        for _ in range(count + 5):
            sent = time.perf_counter()
            await call.write(_MESSAGE)
            answer = await call.read()
            received = time.perf_counter()
            arrived, worked, answered = (float(part) for part in answer.split()[:3])
            samples.append((arrived - sent, answered - worked, received - answered))
        call.cancel()
    return Exchange(*(statistics.median(column) * 1e3 for column in zip(*samples[5:], strict=True)))


def _work(megabytes: int) -> Callable[[], object]:
    if not megabytes:
        return lambda: time.sleep(_PAUSE)
    import torch

    weights = torch.ones(1024, megabytes * 512, dtype=torch.bfloat16)
    vector = torch.ones(megabytes * 512, dtype=torch.bfloat16)
    return lambda: weights @ vector


async def _serve(megabytes: int) -> None:
    loop, jobs = asyncio.get_running_loop(), queue.SimpleQueue[asyncio.Future[float]]()
    work = _work(megabytes)

    def engine() -> None:
        while True:
            job = jobs.get()
            work()
            loop.call_soon_threadsafe(job.set_result, time.perf_counter())

    async def answer(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for _ in requests:
            arrived = time.perf_counter()
            jobs.put(job := loop.create_future())
            worked = await job
            yield f"{arrived} {worked} {time.perf_counter()} ".encode() + _MESSAGE

    threading.Thread(target=engine, daemon=True).start()
    server = grpc.aio.server()
    _, service, method = _METHOD.split("/")
    handlers = {method: grpc.stream_stream_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
