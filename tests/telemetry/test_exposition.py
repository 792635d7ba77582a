"""GET /metrics on a port of its own: there from the start to the end, whatever the service does meanwhile."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest

from tandem.rpc.server import ListenError, PortTakenError
from tandem.telemetry import EXPOSITION_TYPE, Telemetry
from tandem.telemetry.exposition import MetricsServer
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import Telemetries, policy, trio
from tests.telemetry.reading import Reading


def get(port: int, path: str = "/metrics", host: str = "127.0.0.1") -> tuple[int, str, str]:
    """Status, content type and body."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{host}:{port}{path}", timeout=30) as answer:
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, "", error.read().decode()


async def test_it_serves_what_there_is_until_it_is_closed() -> None:
    told = Telemetry()
    server = MetricsServer(told.metrics, "127.0.0.1", 0)
    server.start()
    told.prompt_tokens.inc(7)
    status, kind, body = await asyncio.to_thread(get, server.port)
    assert (status, kind) == (200, EXPOSITION_TYPE) and Reading(body)("tandem_prompt_tokens_total") == 7
    assert (await asyncio.to_thread(get, server.port, "/metrics?x=1"))[0] == 200
    for path in ("/", "/metricsx", "/favicon.ico"):
        assert (await asyncio.to_thread(get, server.port, path))[0] == 404
    await server.close()
    await server.close()
    with pytest.raises(OSError):
        await asyncio.to_thread(get, server.port)
    again = MetricsServer(told.metrics, "127.0.0.1", server.port)  # its port is free
    again.start()
    await again.close()


async def test_a_taken_port_is_refused_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortTakenError) as caught:
            MetricsServer(Telemetry().metrics, "127.0.0.1", port).start()
    message = str(caught.value)
    assert f"port {port} on 127.0.0.1 is taken" in message and "--metrics-port" in message and "\n" not in message


async def test_a_host_that_is_not_ours_is_refused_in_one_line() -> None:
    with pytest.raises(ListenError) as caught:
        MetricsServer(Telemetry().metrics, "203.0.113.7", 0).start()
    assert "203.0.113.7" in str(caught.value) and "\n" not in str(caught.value)


async def test_every_address_of_a_host_has_the_one_port() -> None:
    server = MetricsServer(Telemetry().metrics, "localhost", 0)
    server.start()
    addresses = {each[4][0] for each in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    for address in addresses:
        host = f"[{address}]" if ":" in address else address
        assert (await asyncio.to_thread(get, server.port, host=host))[0] == 200
    await server.close()


async def test_it_answers_while_the_service_is_busy_and_while_others_read() -> None:
    told = Telemetry()
    server = MetricsServer(told.metrics, "127.0.0.1", 0)
    server.start()
    answers: list[int] = []
    readers = [threading.Thread(target=lambda: answers.append(get(server.port)[0])) for _ in range(8)]
    with socket.create_connection(("127.0.0.1", server.port)):  # one that says nothing
        for reader in readers:
            reader.start()
        time.sleep(0.01)
        for reader in readers:  # the event loop stands still meanwhile
            reader.join(30)
    assert answers == [200] * 8
    await server.close()


async def test_it_can_be_read_while_completions_run() -> None:
    told = Telemetries()
    server = MetricsServer(told.target.metrics, "127.0.0.1", 0)
    server.start()
    async with trio(tiny_llama(2), tiny_llama(2, noise=0.1), byte_tokenizer(64), telemetry=told) as services:
        running = [
            asyncio.create_task(services.complete([1, 2], policy=policy("fixed"), max_tokens=100)) for _ in range(4)
        ]
        seen = []
        while not all(task.done() for task in running):
            found = Reading((await asyncio.to_thread(get, server.port))[2])
            seen.append(found("tandem_engine_step_sequences_count"))
        await asyncio.gather(*running)
    await server.close()
    assert len(seen) > 2 and seen == sorted(seen) and seen[-1] > 10
