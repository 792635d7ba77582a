"""The two sides: services that tell everything, and whose metrics are read, and services that tell nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import urllib.request
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress

from tandem.cli.services import Layout, LocalServices

_SERVICES = ("ORCHESTRATOR", "DRAFT", "TARGET")
# Three times as often as deploy/prometheus has it, so that every measurement holds some.
_SCRAPE_SECONDS = 5.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Scraper:
    """Reads metrics as Prometheus does, but more often. scrapes: readings of one service that it has made."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.scrapes = 0
        self._ports = ports

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[None]:
        """For as long as the block lasts. Raises OSError where there is nothing to be read."""
        task = asyncio.create_task(self._read())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _read(self) -> None:
        while True:
            for port in self._ports:
                await asyncio.to_thread(_get, port)
                self.scrapes += 1
            await asyncio.sleep(_SCRAPE_SECONDS)


def _get(port: int) -> None:
    with _OPENER.open(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        answer.read()


@contextmanager
def both_sides(layout: Layout, otlp_endpoint: str) -> Iterator[tuple[LocalServices, LocalServices, Scraper]]:
    """Services with all of it on, and services with all of it off, both running; a scraper for the first."""
    ports = _free_ports(len(_SERVICES))
    with ExitStack() as stack:
        with _variables(_settings(ports, "json", otlp_endpoint)):
            on = stack.enter_context(LocalServices(layout, show_logs=False))
        with _variables(_settings(["none"] * len(_SERVICES), "console", "none")):
            off = stack.enter_context(LocalServices(layout, show_logs=False))
        yield on, off, Scraper(ports)


def _settings(ports: Sequence[int | str], log_format: str, otlp_endpoint: str) -> dict[str, str]:
    """Variables of all three services."""
    found = {}
    for service, port in zip(_SERVICES, ports, strict=True):
        found[f"TANDEM_{service}_METRICS_PORT"] = str(port)
        found[f"TANDEM_{service}_LOG_FORMAT"] = log_format
        found[f"TANDEM_{service}_OTLP_ENDPOINT"] = otlp_endpoint
    return found


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """For what is started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
