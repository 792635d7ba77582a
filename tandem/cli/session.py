"""An orchestrator to talk to: the one that was named, or one started here for the time of the command."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from tandem.cli.client import Client
from tandem.cli.errors import CliError
from tandem.cli.services import Layout, LocalServices


@contextmanager
def connected(endpoint: str | None, layout: Layout, console: Console) -> Iterator[Client]:
    """A client of `endpoint`, or of services started by `layout` where it is None. Raises CliError.

    console: where progress is shown, if it is a terminal.
    """
    if endpoint is not None:
        try:
            client = Client(endpoint)
        except ValueError as error:
            raise CliError(f"--endpoint: {error}") from error
        try:
            yield client
        finally:
            client.close()
        return
    with termination_as_interrupt(), console.status("starting the services") as status:
        services = LocalServices(layout, show_logs=False, say=lambda text: status.update(text))
        with services:
            status.stop()
            client = Client(services.endpoint)
            try:
                yield client
            finally:
                client.close()


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does: what it started must not outlive it."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
