"""An orchestrator to talk to: the one that was named, or one started here for the time of the command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from tandem.cli.client import Client
from tandem.cli.errors import CliError
from tandem.cli.services import Layout, LocalServices
from tandem.cli.signals import termination_unwinds
from tandem.rpc.handshake import check_pair


@contextmanager
def connected(endpoint: str | None, layout: Layout, console: Console) -> Iterator[Client]:
    """A client of `endpoint`, or of services started by `layout` where it is None. Raises CliError.

    console: where progress is shown, if it is a terminal.
    """
    if endpoint is not None:
        if layout != Layout():
            raise CliError("flags of models are for services started here, but --endpoint names running ones")
        try:
            client = Client(endpoint)
        except ValueError as error:
            raise CliError(f"--endpoint: {error}") from error
        try:
            yield client
        finally:
            client.close()
        return
    with termination_unwinds(), console.status("starting the services") as status:
        services = LocalServices(layout, show_logs=False, say=lambda text: status.update(text))
        with services:
            status.stop()
            client = Client(services.endpoint)
            try:
                yield client
            finally:
                client.close()


def check_models(endpoint: str) -> None:
    """Says at the start, not at the first request, that draft and target do not fit. Raises TandemError."""
    client = Client(endpoint)
    try:
        models = client.models()
    finally:
        client.close()
    if models.HasField("draft"):
        check_pair(draft=models.draft, target=models.target)
